"""Members: the tensors that have an axis, seen by unit of the axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch

from graphc.axes.axis import Axis, units
from graphc.coupling import Analysis
from graphc.ir.graph import attribute

Elementwise = Callable[..., torch.Tensor]

PIECE = 2**22
"""Entries of a tensor that are scored at once; what is computed on the way is not larger."""


def parameters(analysis: Analysis, axis: Axis) -> Iterator[tuple[str, int, torch.nn.Parameter]]:
    """Every parameter that has the axis: its name, the dim, its value."""
    for name, dim in axis.members:
        value = attribute(analysis.program.module, name)
        if isinstance(value, torch.nn.Parameter):
            yield name, dim, value


def by_unit(analysis: Analysis, axis: Axis, name: str, dim: int, value: torch.Tensor) -> torch.Tensor:
    """Entries of a tensor by unit of an axis.

    Args:
        analysis: of the program that has the tensor.
        axis: a leaf.
        name, dim: of the tensor and of its dim that has the axis.
        value: of the tensor's shape: the tensor, its gradient, ...

    Returns:
        ``[before, units, after]``, float32 or float64; a view where the dim is the axis itself.
    """
    return _real(_rows(analysis, axis, name, dim, value))


def _real(rows: torch.Tensor) -> torch.Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()


def _rows(analysis: Analysis, axis: Axis, name: str, dim: int, value: torch.Tensor) -> torch.Tensor:
    """The same in the tensor's own dtype."""
    before, after = math.prod(value.shape[:dim]), math.prod(value.shape[dim + 1 :])
    rows = value.detach().reshape(before, value.shape[dim], after)
    expression = analysis.tensors[name][dim]
    assert expression is not None, f"{name} has no axis at dim {dim}"
    if expression.root() is not axis:
        unit = units(expression, axis)
        order = torch.argsort(unit, stable=True)[(unit < 0).sum() :]
        rows = rows.index_select(1, order.to(value.device)).reshape(before, axis.size, -1)
    return rows


def unit_sums(
    analysis: Analysis, axis: Axis, entry: Elementwise, *sources: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """For each parameter that has the axis, a sum over the entries of each unit.

    Args:
        analysis: of the program.
        axis: a leaf.
        entry: elementwise function of the parameter and of its counterpart in each source.
        sources: tensors of the parameters' shapes, by name.

    Returns:
        Tensors of shape ``[axis.size]``, float64, on the CPU.
    """
    found: list[torch.Tensor] = []
    for name, dim, value in parameters(analysis, axis):
        tensors = [_rows(analysis, axis, name, dim, x) for x in (value, *(source[name] for source in sources))]
        pieces = zip(*map(_pieces, tensors), strict=True)
        found.append(sum_pieces(_total(entry(*map(_real, piece))) for piece in pieces))
    return found


def sum_pieces(parts: Iterator[torch.Tensor]) -> torch.Tensor:
    """The sum of some tensors, in float64, on the CPU."""
    total = next(parts).double().cpu()
    for part in parts:  # one after the other: small sums kept between large pieces would keep their memory apart
        total = total + part.double().cpu()
    return total


def _pieces(rows: torch.Tensor) -> list[torch.Tensor]:
    """Parts of ``[before, units, after]`` with at most ``PIECE`` entries, or of one row or column."""
    dim = 0 if rows.shape[0] > 1 else 2
    if rows.numel() <= PIECE or not rows.shape[dim]:
        return [rows]
    return list(torch.split(rows, max(1, PIECE * rows.shape[dim] // rows.numel()), dim))


def _total(values: torch.Tensor) -> torch.Tensor:
    """Sum by unit; along the memory, which is several times faster than over both dims at once."""
    return (values[0] if values.shape[0] == 1 else values.sum(0)).sum(-1)
