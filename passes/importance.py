"""Importance: how much each unit of an axis matters, from all the parameters that have the axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from graphc.axes.axis import Axis, units
from graphc.coupling import Analysis
from graphc.ir.graph import attribute

Criterion = Callable[[list[torch.Tensor]], torch.Tensor]

PIECE = 2**22
"""Entries of a tensor that are scored at once; what is computed on the way is not larger."""


def l1(parts: list[torch.Tensor]) -> torch.Tensor:
    """Sum of absolute weights (Li et al. 2017, Pruning Filters for Efficient ConvNets).

    Args:
        parts: for each member of the axis its weights, shape ``[before, units, after]``.

    Returns:
        Scores of shape ``[units]``.
    """
    return torch.stack([_total(part.abs()) for part in parts]).sum(0, dtype=torch.float64)


def l2(parts: list[torch.Tensor]) -> torch.Tensor:
    """Euclidean norm of all weights of a unit (group norm; Fang et al. 2023, DepGraph).

    Args:
        parts: for each member of the axis its weights, shape ``[before, units, after]``.

    Returns:
        Scores of shape ``[units]``.
    """
    return torch.stack([_total(part.square()) for part in parts]).sum(0, dtype=torch.float64).sqrt()


CRITERIA: Mapping[str, Criterion] = {"l1": l1, "l2": l2}


def score(analysis: Analysis, axis: Axis, criterion: str) -> torch.Tensor:
    """Importance of each unit of an axis.

    Every parameter that has the axis counts, with all the entries that would be removed together.

    Returns:
        float64 scores of shape ``[axis.size]``, on the CPU.
    """
    parts: list[torch.Tensor] = []
    for name, dim in axis.members:
        value = attribute(analysis.program.module, name)
        if isinstance(value, torch.nn.Parameter):
            expression = analysis.tensors[name][dim]
            assert expression is not None, f"{name} has no axis at dim {dim}"
            parts += _pieces(_by_unit(value.detach(), dim, expression, axis))
    return CRITERIA[criterion](parts).cpu() if parts else torch.zeros(axis.size, dtype=torch.float64)


def _by_unit(value: torch.Tensor, dim: int, expression: Axis, axis: Axis) -> torch.Tensor:
    """Entries of a tensor by unit, ``[before, units, after]``: a view where the dim is the axis."""
    before, after = math.prod(value.shape[:dim]), math.prod(value.shape[dim + 1 :])
    rows = value.reshape(before, value.shape[dim], after)
    if expression.root() is not axis:
        unit = units(expression, axis)
        order = torch.argsort(unit, stable=True)[(unit < 0).sum() :]
        rows = rows.index_select(1, order.to(value.device)).reshape(before, axis.size, -1)
    return rows if rows.dtype == torch.float64 else rows.float()


def _pieces(rows: torch.Tensor) -> list[torch.Tensor]:
    """Parts of ``[before, units, after]`` with at most ``PIECE`` entries, or of one row or column."""
    dim = 0 if rows.shape[0] > 1 else 2
    if rows.numel() <= PIECE or not rows.shape[dim]:
        return [rows]
    return list(torch.split(rows, max(1, PIECE * rows.shape[dim] // rows.numel()), dim))


def _total(values: torch.Tensor) -> torch.Tensor:
    """Sum by unit; along the memory, which is several times faster than over both dims at once."""
    return (values[0] if values.shape[0] == 1 else values.sum(0)).sum(-1)
