"""The pass library."""
