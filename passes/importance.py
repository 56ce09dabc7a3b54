"""Importance: how much each unit of an axis matters, from all the parameters that have the axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from graphc.axes.axis import Axis, units
from graphc.coupling import Analysis

Criterion = Callable[[list[torch.Tensor]], torch.Tensor]


def l1(parts: list[torch.Tensor]) -> torch.Tensor:
    """Sum of absolute weights (Li et al. 2017, Pruning Filters for Efficient ConvNets).

    Args:
        parts: for each member of the axis its weights, shape ``[units, weights per unit]``.

    Returns:
        Scores of shape ``[units]``.
    """
    return torch.stack([part.abs().sum(1) for part in parts]).sum(0)


def l2(parts: list[torch.Tensor]) -> torch.Tensor:
    """Euclidean norm of all weights of a unit (group norm; Fang et al. 2023, DepGraph).

    Args:
        parts: for each member of the axis its weights, shape ``[units, weights per unit]``.

    Returns:
        Scores of shape ``[units]``.
    """
    return torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()


CRITERIA: Mapping[str, Criterion] = {"l1": l1, "l2": l2}


def score(analysis: Analysis, axis: Axis, criterion: str) -> torch.Tensor:
    """Importance of each unit of an axis.

    Every parameter that has the axis counts, with all the entries that would be removed together.

    Returns:
        float64 scores of shape ``[axis.size]``, on the CPU.
    """
    tensors = analysis.program.tensors()
    parts: list[torch.Tensor] = []
    for name, dim in axis.members:
        value = tensors[name]
        if isinstance(value, torch.nn.Parameter):
            expression = analysis.tensors[name][dim]
            assert expression is not None, f"{name} has no axis at dim {dim}"
            parts.append(_by_unit(value.detach(), dim, units(expression, axis), axis.size))
    return CRITERIA[criterion](parts) if parts else torch.zeros(axis.size, dtype=torch.float64)


def _by_unit(value: torch.Tensor, dim: int, unit: torch.Tensor, size: int) -> torch.Tensor:
    """Entries of a tensor grouped by unit: ``[size, entries per unit]``."""
    rows = (
        value.to("cpu", torch.float64).movedim(dim, 0).flatten(1) if value.dim() > 1 else value.double().cpu()[:, None]
    )
    order = torch.argsort(unit, stable=True)
    order = order[(unit < 0).sum() :]
    return rows[order].reshape(size, -1)
