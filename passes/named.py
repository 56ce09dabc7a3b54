"""Axes by name: what they go by, and what a search may choose for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graphc.axes.axis import Axis

STEP = 0.1
"""Between the ratios that a search may choose, unless it says which."""


def names_of(axis: Axis) -> list[str]:
    """Names by which an axis can be spoken of: its own, and those of all layers that make it."""
    return [axis.name, *axis.aliases]


def ratios_of(axes: Iterable[Axis]) -> Mapping[str, Any]:
    """Ratios for each axis, from none to as many tenths as leave something."""
    most = {axis.name: (axis.size - 1) / axis.size for axis in axes}
    return {name: {"low": 0.0, "high": min(0.9, ratio), "step": STEP} for name, ratio in most.items() if ratio > STEP}
