"""Importance: one function a criterion; importing the folder makes them known by name."""

from . import activations, attention, gradients, weights
from .criterion import CRITERIA, Normalization, Reduction, find_criterion, score

__all__ = [
    "CRITERIA",
    "Normalization",
    "Reduction",
    "activations",
    "attention",
    "find_criterion",
    "gradients",
    "score",
    "weights",
]
