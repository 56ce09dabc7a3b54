"""Training: what the passes that train share."""
