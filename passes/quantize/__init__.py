"""Quantisation: fewer bits for weights and values."""
