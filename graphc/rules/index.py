"""Indexing and tensors made from sizes. What is indexed by value stays whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, leaf
from graphc.axes.notation import broadcast
from graphc.axes.unify import ONE_UNIT, unify
from graphc.rules.operation import Operation, Value
from graphc.rules.pieces import END, cut_at
from graphc.rules.table import Flow, rule

aten = torch.ops.aten

rule(aten.embedding.default, "[v] h, ... -> ... h", roles={"h": "width"})


def _index(op: Operation) -> Value:
    """``x[i, :, j]``: indexed dims are pinned, the index tensors' own dims take their place."""
    axes = op.tensor(0)
    where, at, own = _indexed(op, axes, op.arg(1))
    found = op.shape()[at : at + len(own)]
    picked = [axis or op.fresh(size, "indexed by a mask") for axis, size in zip(own, found, strict=True)]
    rest = [axis for i, axis in enumerate(axes) if i not in where]
    return (*rest[:at], *picked, *rest[at:])


def _index_put(op: Operation) -> Value:
    """``x[i, :, j] = v``: indexed dims and those of the index stay whole, the others are those of the values."""
    axes = op.tensor(0)
    where, at, own = _indexed(op, axes, op.arg(1))
    rest = [axis for i, axis in enumerate(axes) if i not in where]
    for axis in broadcast([(*rest[:at], *own, *rest[at:]), op.tensor(2)], op.where)[at : at + len(own)]:
        _stay(axis, op, "written by index")
    return axes


def _indexed(op: Operation, axes: Layout, indices: Sequence[Node | None]) -> tuple[list[int], int, Layout]:
    """Which dims are indexed, where the dims of the index come among the others, and these dims.

    A mask covers as many dims as it has, and comes as one dim (None) of some size.
    """
    where: list[int] = []
    picked: list[Layout] = []
    dim = 0
    for index in indices:
        rank = len(op.values[index]) if index is not None and _is_mask(index) else 1
        if index is not None:
            where += range(dim, dim + rank)
            picked.append((None,) if _is_mask(index) else op.values[index])
            for axis in op.values[index] if _is_mask(index) else ():
                _stay(axis, op, "indexed by a mask")
        dim += rank
    ints = [index for index in indices if index is not None and not _is_mask(index)]
    if len(ints) == len(picked):
        for i, index in zip(where, ints, strict=True):
            _read(op, axes[i], index, "indexed by value")
    for i in where if len(ints) != len(picked) else ():
        _stay(axes[i], op, "indexed by value")
    adjacent = where == list(range(where[0], where[-1] + 1))
    return where, where[0] if adjacent else 0, broadcast(picked, op.where)


def _read(op: Operation, axis: Axis | None, index: Any, why: str) -> None:
    """A dim read or written at the places that an index gives: whole, or that whose units it numbers."""
    units = op.choice(index)
    if units is not None and axis is not None and axis.size == units.size:
        unify(axis, units, op.where)
        units.mix()
    else:
        for one in (axis, units):
            _stay(one, op, why)


def _is_mask(node: Node) -> bool:
    return bool(node.meta["val"].dtype == torch.bool)


def _stay(axis: Axis | None, op: Operation, why: str) -> None:
    if axis is not None:
        axis.pin(f"{why} at {op.where()}")


def _index_select(op: Operation) -> Value:
    axes, (own,) = op.tensor(0), op.tensor(2) or (None,)
    dim = op.number(op.arg(1)) % len(axes)
    _read(op, axes[dim], op.arg(2), "indexed by value")
    return (*axes[:dim], own, *axes[dim + 1 :])


def _gather(op: Operation) -> Value:
    index = op.tensor(2)
    _along(op, op.tensor(0), index, "read")
    return index


def _along(op: Operation, axes: Layout, index: Layout, what: str) -> None:
    """Dims of an index other than the indexed one run along the data's: the same axis where they are as long."""
    dim = op.number(op.arg(1)) % max(1, len(axes))
    for i, (axis, own) in enumerate(zip(axes, index, strict=True)):
        if i == dim:
            _read(op, axis, op.arg(2), f"{what} by index")
        elif axis is not None and own is not None and axis.size == own.size:
            unify(axis, own, op.where)
        else:
            _stay(axis, op, f"{what} in part")
            _stay(own, op, f"{what} in part")


def _scatter(op: Operation) -> Value:
    """As gather, but written; a source as long as the index goes with it."""
    axes, index = op.tensor(0), op.tensor(2)
    _along(op, axes, index, "written")
    if index:
        _stay(index[op.number(op.arg(1))], op, "written by index")
    for own, source in zip(index, op.layout(3) or (), strict=False):
        if own is not None and source is not None and own.size == source.size:
            unify(own, source, op.where)
        else:
            _stay(own, op, "written in part")
            _stay(source, op, "written in part")
    return axes


def _along_one(op: Operation) -> Value:
    """index_add, index_copy, index_fill: one dim is written by index, the others run along the source's."""
    axes, source = op.tensor(0), op.layout(3)
    dim = op.number(op.arg(1)) % max(1, len(axes))
    for axis in (axes[dim], *op.tensor(2), *(source or ())[dim : dim + 1]):
        _stay(axis, op, "written by index")
    if source:
        broadcast([(*layout[:dim], None, *layout[dim + 1 :]) for layout in (axes, source)], op.where)
    return axes


def _all_stay(op: Operation) -> Value:
    axes = op.tensor(0)
    for axis in (axis for layout in op.inputs() for axis in layout):
        _stay(axis, op, "written by index")
    return axes


def _counts(op: Operation) -> Value:
    """How often each value occurs; where each unit of an axis is counted, they may be fewer."""
    units = op.choice(op.arg(0))
    bins, low, high = (op.arg(i, default) for i, default in ((1, 100), (2, 0), (3, 0)))
    each = units is not None and op.node.target is aten.histc.default and (bins, low) == (units.size, 0)
    for axis in (axis for layout in op.inputs() for axis in layout):
        _stay(axis, op, "counted by value")
    if units is not None and each and high == bins - 1:
        units.mix()
        op.state((1,), units)
        op.state((3,), units, more=-1)
        return (units,)
    _stay(units, op, "counted by value")
    return tuple(op.fresh(size, "counts by value") for size in op.shape())


def _searched(op: Operation) -> Value:
    """Places of values among ordered ones, whose last dim stays whole; the others are the same axes."""
    ordered, values = (
        (op.tensor(1), op.tensor(0))
        if op.node.target is aten.bucketize.Tensor
        else (
            op.tensor(0),
            op.tensor(1),
        )
    )
    _stay(ordered[-1], op, "searched by value")
    if len(ordered) > 1:
        broadcast([(*ordered[:-1], None), (*values[:-1], None)], op.where)
    return values


def _slice_scatter(op: Operation) -> Value:
    """A piece written back: where its bounds are numbers, the dim is what lies before it, the piece and the rest."""
    axes, source = op.tensor(0), op.tensor(1)
    dim = op.number(op.arg(2, 0)) % len(axes)
    whole = _written(op, axes[dim], source[dim])
    rest = broadcast([(*a[:dim], None, *a[dim + 1 :]) for a in (axes, source)], op.where)
    return (*rest[:dim], whole, *rest[dim + 1 :])


def _written(op: Operation, axis: Axis | None, piece: Axis | None) -> Axis | None:
    start, end = op.arg(3, None) or 0, op.arg(4, None)
    length = 1 if piece is None else piece.size
    counted = isinstance(start, Node) or isinstance(end, Node) or op.arg(5, 1) != 1 or start < 0 or (end or 0) < 0
    if axis is None or counted:
        _stay(axis, op, "written in part")
        _stay(piece, op, "written in part")
        return axis
    sizes = [size for size in (start, length, axis.size - start - length) if size]
    parts = [part or leaf(1, ONE_UNIT) for part in cut_at(op, axis, sizes)]
    at = 1 if start else 0
    if length:
        unify(parts[at], piece, op.where)
    if start:
        op.state((3,), parts[0])
    if end is not None and end < END:
        op.state((4,), *parts[: at + 1])
    return axis


def _select_scatter(op: Operation) -> Value:
    axes, source = op.tensor(0), op.tensor(1)
    dim = op.number(op.arg(2)) % len(axes)
    _stay(axes[dim], op, "written in part")
    rest = broadcast([(*axes[:dim], None, *axes[dim + 1 :]), (*source[:dim], None, *source[dim:])], op.where)
    return (*rest[:dim], axes[dim], *rest[dim + 1 :])


def _diagonal(op: Operation) -> Value:
    axes = op.tensor(0)
    first, second = op.arg(2, 0) % len(axes), op.arg(3, 1) % len(axes)
    for dim in (first, second):
        _stay(axes[dim], op, "read along a diagonal")
    rest = [axis for i, axis in enumerate(axes) if i not in (first, second)]
    return (*rest, op.fresh(op.shape()[-1], "read along a diagonal"))


def _triangle(op: Operation) -> Value:
    axes = op.tensor(0)
    for axis in axes[-2:]:
        _stay(axis, op, "a triangle by position")
    return axes


def _counting(op: Operation) -> Value:
    """arange and friends: positions, not units; cutting what they meet would renumber it."""
    return tuple(op.fresh(size, "counts positions") for size in op.shape())


def _filled(size_index: int) -> Flow:
    """Tensors filled with one value: their dims are whatever they meet."""

    def flow(op: Operation) -> Value:
        dims: list[Axis | None] = []
        for i, literal in enumerate(op.arg(size_index)):
            size = op.number(literal)
            axis = op.fresh(size, "a size given by an input") if isinstance(literal, Node) else None
            if axis is None and size != 1:
                axis = leaf(size)
            if axis is not None:
                op.state((size_index, i), axis)
            dims.append(axis)
        return tuple(dims)

    return flow


def _one_hot(op: Operation) -> Value:
    """One place for each class; of an axis whose units the classes number, for each unit."""
    units = op.choice(op.arg(0))
    if units is not None and op.arg(1, -1) == units.size:
        units.mix()
        op.state((1,), units)
        return (*op.tensor(0), units)
    _stay(units, op, "one-hot classes")
    return (*op.tensor(0), op.fresh(op.shape()[-1], "one-hot classes"))


def _grid(op: Operation) -> Value:
    axes = [op.values[node][0] if op.values[node] else None for node in op.arg(0)]
    dims = axes[1::-1] + axes[2:] if op.arg("indexing") == "xy" else axes
    return tuple(tuple(dims) for _ in axes)


rule(aten.index.Tensor, _index)
rule(aten.index_select.default, _index_select)
rule(aten.gather.default, _gather)
rule([aten.scatter.src, aten.scatter.value, aten.scatter_add.default, aten.scatter_reduce.two], _scatter)
rule(aten.index_put.default, _index_put)
rule(aten.masked_scatter.default, _all_stay)
rule([aten.index_add.default, aten.index_copy.default], _along_one)
rule([aten.index_fill.int_Scalar, aten.index_fill.int_Tensor], _along_one)
rule([aten.histc.default, aten.bincount.default], _counts)
rule([aten.searchsorted.Tensor, aten.bucketize.Tensor], _searched)
rule(aten.slice_scatter.default, _slice_scatter)
rule(aten.select_scatter.default, _select_scatter)
rule(aten.diagonal.default, _diagonal)
rule([aten.tril.default, aten.triu.default], _triangle)
rule([aten.arange.default, aten.arange.start, aten.arange.start_step, aten.randperm.default], _counting)
rule([aten.linspace.default, aten.logspace.default, aten.eye.default, aten.tril_indices.default], _counting)
rule([aten.full.default, aten.zeros.default, aten.ones.default, aten.empty.memory_format], _filled(0))
rule([aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default], _filled(1))
rule([aten.rand.default, aten.randn.default], _filled(0))
rule([aten.scalar_tensor.default], lambda op: ())
rule(aten.one_hot.default, _one_hot)
rule(aten.meshgrid.indexing, _grid)
