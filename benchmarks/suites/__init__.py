"""The architectures of the coverage benchmark, one file a library; each has ``cases()``."""
