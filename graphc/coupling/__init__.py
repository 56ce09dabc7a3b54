"""Coupling: which units of a program stand and fall together, and cutting them."""

from graphc.coupling.flow import Analysis, analyze, find_axes
from graphc.coupling.slicing import mask, slice

__all__ = ["Analysis", "analyze", "find_axes", "mask", "slice"]
