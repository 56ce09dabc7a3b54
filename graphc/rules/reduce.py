"""Reductions and scans. What they run over is mixed (values) or pinned (positions)."""

from __future__ import annotations

import torch

from graphc.axes.axis import Axis, Layout
from graphc.axes.notation import broadcast
from graphc.rules.operation import Operation, Value
from graphc.rules.table import Flow, rule

aten = torch.ops.aten


def _reduced(axes: Layout, dims: list[int], keepdim: bool) -> Layout:
    gone = {d % len(axes) for d in dims} if axes else set()
    return tuple(None if i in gone else axis for i, axis in enumerate(axes) if keepdim or i not in gone)


def _over(axes: Layout, dims: list[int]) -> list[Axis]:
    return [axis for d in dims if axes and (axis := axes[d]) is not None]


def _reduction(dim_index: int = 1, keep_index: int | str = 2) -> Flow:
    """Values along some dims become one: a removed unit no longer takes part."""

    def flow(op: Operation) -> Value:
        axes = op.tensor(0)
        given = op.arg(dim_index)
        dims = op.numbers(dim_index) if given is not None and given != [] else list(range(len(axes)))
        for axis in _over(axes, dims):
            axis.mix()
        return _reduced(axes, dims, bool(op.arg(keep_index, False)))

    return flow


def _two_results(op: Operation) -> Value:
    """median.dim, mode: the same layout twice, positions pinned."""
    axes = op.tensor(0)
    dims = op.numbers(1)
    for axis in _over(axes, dims):
        axis.pin(f"positions found along it at {op.where()}")
    layout = _reduced(axes, dims, bool(op.arg(2, False)))
    return layout, layout


def _extreme(op: Operation) -> Value:
    """max.dim, min.dim: a value, and the number of the unit that has it."""
    axes = op.tensor(0)
    dims = op.numbers(1)
    for axis in _over(axes, dims):
        axis.mix()
        op.chosen(axis, 1)
    layout = _reduced(axes, dims, bool(op.arg(2, False)))
    return layout, layout


def _all(op: Operation) -> Value:
    for axis in _over(op.tensor(0), list(range(len(op.tensor(0))))):
        axis.mix()
    return ()


def _positions(op: Operation) -> Value:
    """argmax, argmin: the number of a unit along one dim; over all dims it counts positions."""
    axes = op.tensor(0)
    if op.arg(1) is None:
        for axis in _over(axes, list(range(len(axes)))):
            axis.pin(f"positions found along it at {op.where()}")
        return _reduced(axes, list(range(len(axes))), bool(op.arg(2, False)))
    dims = [op.number(op.arg(1))]
    for axis in _over(axes, dims):
        axis.mix()
        op.chosen(axis)
    return _reduced(axes, dims, bool(op.arg(2, False)))


def _twice(flow: Flow) -> Flow:
    """Two results of the same layout."""

    def both(op: Operation) -> Value:
        layout = flow(op)
        return layout, layout

    return both


def _kth(op: Operation) -> Value:
    """kthvalue: a value and where it stands."""
    axes = op.tensor(0)
    dims = [op.number(op.arg(2, -1))]
    for axis in _over(axes, dims):
        axis.pin(f"ordered by value at {op.where()}")
    layout = _reduced(axes, dims, bool(op.arg(3, False)))
    return layout, layout


def _compared(dim_index: int | None, default: int, keep_index: int) -> Flow:
    """Two tensors compared along a dim."""

    def flow(op: Operation) -> Value:
        axes = broadcast([op.tensor(0), op.tensor(1)], op.where)
        dims = [default if dim_index is None else op.number(op.arg(dim_index, default))]
        for axis in _over(axes, dims):
            axis.mix()
        return _reduced(axes, dims, bool(op.arg(keep_index, False)))

    return flow


def _scan(op: Operation) -> Value:
    """Every unit meets those before it; units that are chosen by value have no order of their own."""
    axes = op.tensor(0)
    for axis in _over(axes, [op.number(op.arg(1))]):
        if op.is_chosen(axis):
            axis.mix()
        else:
            axis.pin(f"scanned in order at {op.where()}")
    return axes


def _sorted(dim_index: int | str) -> Flow:
    """sort, argsort: the dim is ordered by value; numbers of units are in order whatever units there are."""

    def flow(op: Operation) -> Value:
        axes = op.tensor(0)
        op.choice(op.arg(0))
        for axis in _over(axes, [op.number(op.arg(dim_index, -1))]):
            axis.pin(f"ordered by value at {op.where()}")
        return axes

    return flow


def _topk(op: Operation) -> Value:
    """The greatest of a dim, and the numbers of their units: fewer units can be chosen from, if enough are left."""
    axes = list(op.tensor(0))
    dim, count = op.number(op.arg(2, -1)), op.number(op.arg(1))
    for axis in _over(tuple(axes), [dim]):
        axis.mix()
        op.chosen(axis, 1)
        op.need(axis, count)
    axes[dim] = op.fresh(count, "ordered by value")
    return tuple(axes)


rule([aten.mean.dim, aten.sum.dim_IntList, aten.nansum.default, aten.amax.default, aten.amin.default], _reduction())
rule(
    [aten.logsumexp.default, aten.all.dim, aten.any.dim, aten.all.dims, aten.any.dims, aten.prod.dim_int], _reduction()
)
rule([aten.count_nonzero.default, aten.count_nonzero.dim_IntList, aten.nanmean.default], _reduction())
rule([aten.var.dim, aten.std.dim], _reduction(1, 3))
rule([aten.var_mean.dim, aten.std_mean.dim], _twice(_reduction(1, 3)))
rule([aten.var_mean.correction, aten.std_mean.correction], _twice(_reduction(1, "keepdim")))
rule([aten.var.correction, aten.std.correction], _reduction(1, "keepdim"))
rule([aten.linalg_vector_norm.default, aten.linalg_norm.default, aten.norm.ScalarOpt_dim], _reduction(2, 3))
rule([aten.mean.default, aten.sum.default], _all)
rule(
    [aten.max.default, aten.min.default, aten.all.default, aten.any.default, aten.prod.default, aten.std.default], _all
)
rule([aten.max.dim, aten.min.dim], _extreme)
rule([aten.median.dim, aten.mode.default], _two_results)
rule([aten.argmax.default, aten.argmin.default], _positions)
rule([aten.cumsum.default, aten.cumprod.default, aten.logcumsumexp.default], _scan)
rule([aten.cummax.default, aten.cummin.default], _twice(_sorted(1)))
rule(aten.sort.default, _twice(_sorted(1)))
rule(aten.sort.stable, _twice(_sorted("dim")))
rule(aten.argsort.default, _sorted(1))
rule(aten.argsort.stable, _sorted("dim"))
rule(aten.topk.default, _twice(_topk))
rule(aten.kthvalue.default, _kth)
rule(aten.cosine_similarity.default, _compared(2, 1, 4))
rule(aten.pairwise_distance.default, _compared(None, -1, 4))
