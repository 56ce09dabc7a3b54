"""Elastic networks: sub-networks of a supernet that was trained for many widths, depths and kernels."""

from .finding import find_space
from .space import Choice, Cut, DepthChoice, KernelChoice, Space, Spec, Squeeze, WidthChoice
from .subnetwork import subnetwork

__all__ = [
    "Choice",
    "Cut",
    "DepthChoice",
    "KernelChoice",
    "Space",
    "Spec",
    "Squeeze",
    "WidthChoice",
    "find_space",
    "subnetwork",
]
