"""Random recipes over random small nets: every compile ends proven, or is refused with a reason."""
