"""graphc beside other tools, on the same models and in the same conditions."""
