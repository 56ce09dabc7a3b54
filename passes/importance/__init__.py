"""Importance: one function a criterion; importing the folder makes them known by name."""

from . import activations, attention, gradients, weights
from .criterion import CRITERIA, Normalization, Reduction, criterion_in_memory, find_criterion, score

__all__ = [
    "CRITERIA",
    "Normalization",
    "Reduction",
    "activations",
    "attention",
    "criterion_in_memory",
    "find_criterion",
    "gradients",
    "score",
    "weights",
]
