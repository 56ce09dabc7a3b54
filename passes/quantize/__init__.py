"""Quantisation: the pass, the targets it knows, and how weights and values become integers."""

from .quantize import Quantize

__all__ = ["Quantize"]
