"""Reading: where the values of an axis are read, and sums of such values by unit.

An axis is read by the ops that sum over it: a convolution or linear layer over its inputs, a matrix
product. What enters them is what the rest of a network sees of each unit, after any activation
function, norm or attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, leaves, units
from graphc.coupling import Analysis

Places = dict[Node, list[tuple[Axis, int]]]
"""Values, and the axes that are read in each, with the dim that has the axis."""


def readings(analysis: Analysis, axes: Sequence[Axis]) -> Places:
    """Every value computed from the inputs that some op sums over one of the axes."""
    wanted, places = set(axes), Places()
    computed = {node for node in analysis.program.graph.nodes if node.op == "placeholder"}
    for node in analysis.program.graph.nodes:
        if node.op != "call_function" or computed.isdisjoint(node.all_input_nodes):
            continue
        computed.add(node)
        if not isinstance(analysis.values[node], tuple):
            continue
        left = _leaves(analysis.values[node])
        for source in dict.fromkeys(node.all_input_nodes):
            for axis, dim in _dims(analysis.values[source], wanted) if source in computed else ():
                if axis not in left and (axis, dim) not in places.setdefault(source, []):
                    places[source].append((axis, dim))
    return {node: found for node, found in places.items() if found}


def _dims(value: Any, wanted: set[Axis]) -> Iterator[tuple[Axis, int]]:
    """The wanted leaves in a layout, with their dims."""
    if isinstance(value, tuple) and not any(isinstance(part, tuple) for part in value):
        for dim, expression in enumerate(value):
            for axis in dict.fromkeys(leaves(expression)) if isinstance(expression, Axis) else ():
                if axis in wanted:
                    yield axis, dim


def _leaves(value: Any) -> set[Axis]:
    if isinstance(value, Axis):
        return set(leaves(value))
    return {axis for part in value for axis in _leaves(part)} if isinstance(value, tuple) else set()


def along(value: torch.Tensor, dim: int, expression: Axis, axis: Axis, keep: bool = False) -> torch.Tensor:
    """The sum of a value over all that is not of a unit of an axis.

    Args:
        value: any shape.
        dim: which has the axis.
        expression: what that dim is made of.
        axis: a leaf of it.
        keep: keep dim 0 (samples), unless it is that dim itself.

    Returns:
        ``[axis.size]``, or ``[samples, axis.size]`` if ``keep``; float64.
    """
    first = value.shape[0] if keep and dim else 1
    other = [i for i in range(value.dim()) if i != dim and not (keep and dim and i == 0)]
    rows = (value.sum(other) if other else value).double().reshape(first, -1)
    unit = units(expression, axis).to(value.device)
    inside = unit >= 0
    sums = rows.new_zeros(first, axis.size).index_add_(1, unit[inside], rows[:, inside])
    return sums if keep else sums[0]


class Meter:
    """A mean by unit over values that come one after the other."""

    def __init__(self, size: int) -> None:
        self.total = torch.zeros(size, dtype=torch.float64)
        self.count = 0

    def add(self, sums: torch.Tensor, count: int) -> None:
        """Sums by unit, each of so many values."""
        self.total += sums.detach().cpu()
        self.count += count

    @property
    def mean(self) -> torch.Tensor:
        """``[size]``, float64."""
        return self.total / max(1, self.count)
