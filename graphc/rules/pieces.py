"""Ops that join and cut: cat is a sum of axes, split and slice take its terms."""

from __future__ import annotations

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, leaf, total
from graphc.axes.notation import broadcast
from graphc.axes.unify import ONE_UNIT, cut, divide
from graphc.rules.operation import Operation, Value, positive
from graphc.rules.table import rule

aten = torch.ops.aten
END = 2**62
"""A slice that ends beyond this runs to the end of its dim."""

NOTHING = "nothing is left of it"


def _cat(op: Operation) -> Value:
    layouts = [op.values[node] for node in op.arg(0)]
    layouts = [layout for layout in layouts if layout or layout == ()]
    rank = max(len(layout) for layout in layouts)
    layouts = [layout for layout in layouts if len(layout) == rank]
    return _joined(op, layouts, positive(op.arg(1, 0), rank))


def _joined(op: Operation, layouts: list[Layout], dim: int) -> Layout:
    rest = broadcast([(*layout[:dim], None, *layout[dim + 1 :]) for layout in layouts], op.where)
    parts = [layout[dim] or leaf(1, ONE_UNIT) for layout in layouts]
    parts = [part for part in parts if part.size] or parts
    return (*rest[:dim], total(parts), *rest[dim + 1 :])


def _hstack(op: Operation) -> Value:
    layouts = [op.values[node] or (None,) for node in op.arg(0)]
    return _joined(op, layouts, 0 if len(layouts[0]) == 1 else 1)


def _vstack(op: Operation) -> Value:
    layouts = [op.values[node] or (None,) for node in op.arg(0)]
    return _joined(op, [layout if len(layout) > 1 else (None, *layout) for layout in layouts], 0)


def _stack(op: Operation) -> Value:
    layouts = [op.values[node] for node in op.arg(0)]
    rest = broadcast(layouts, op.where)
    dim = positive(op.arg(1, 0), len(rest) + 1)
    return (*rest[:dim], op.fresh(len(layouts), "tensors stacked"), *rest[dim:])


def _split(op: Operation) -> Value:
    """split_with_sizes: the dim is the sum of the parts."""
    axes = op.tensor(0)
    dim = positive(op.arg(2, 0), len(axes))
    sizes = op.numbers(1)
    parts = cut_at(op, axes[dim], sizes)
    for i, part in enumerate(parts):
        op.state((1, i), part if part is not None else leaf(1))
    return tuple((*axes[:dim], part, *axes[dim + 1 :]) for part in parts)


def cut_at(op: Operation, axis: Axis | None, sizes: list[int]) -> list[Axis | None]:
    """Cut an axis into consecutive parts; where it cannot be cut there, pin it and give new parts."""
    if axis is None or len(sizes) == 1:
        return [axis if size else leaf(0, NOTHING) for size in sizes]
    parts: list[Axis | None] = []
    rest = axis
    for size in sizes[:-1]:
        halves = cut(rest, size, op.where) if 0 < size < rest.size else None
        if halves is None:
            axis.pin(f"cut into {sizes} across a boundary at {op.where()}")
            return [op.fresh(size, "part of a pinned axis") for size in sizes]
        parts.append(halves[0])
        rest = halves[1]
    parts.append(rest)
    return [None if part is not None and part.size == 1 else part for part in parts]


def _slice(op: Operation) -> Value:
    """A contiguous static piece of an axis; anything else selects by position."""
    axes = op.tensor(0)
    dim = positive(op.arg(1, 0), len(axes))
    axis = axes[dim]
    result = op.shape()[dim]
    if axis is None:
        return axes if result else (*axes[:dim], leaf(0, NOTHING), *axes[dim + 1 :])
    start, end = op.arg(2, None) or 0, op.arg(3, None)
    stop = END if end is None else op.number(end)
    if op.number(start) == 0 and stop >= axis.size and op.arg(4, 1) == 1 and (end is None or stop >= END):
        return axes
    pair = _every(op, axis, start, stop)
    if pair is not None:
        return (*axes[:dim], pair, *axes[dim + 1 :])
    if isinstance(start, Node) or isinstance(end, Node) or op.arg(4, 1) != 1 or start < 0 or stop < 0:
        axis.pin(f"sliced by position at {op.where()}")
        return (*axes[:dim], op.fresh(result, "sliced by position"), *axes[dim + 1 :])
    sizes = [start, result, axis.size - start - result]
    if result == 0:  # what lies beyond the end, as of a rotation that covers the whole head
        op.state((2,), axis)
        return (*axes[:dim], leaf(0, NOTHING), *axes[dim + 1 :])
    parts = cut_at(op, axis, [size for size in sizes if size])
    before, piece = (parts[0], parts[1]) if start else (None, parts[0])
    if start:
        op.state((2,), before if before is not None else leaf(1))
    if stop < END:
        op.state((3,), *([before if before is not None else leaf(1)] if start else []), piece or leaf(1))
    return (*axes[:dim], piece, *axes[dim + 1 :])


def _every(op: Operation, axis: Axis, start: Node | int, stop: int) -> Axis | None:
    """Every n-th of all units, as the even ones are: of ``(result n)`` n stays whole. None if it is not that."""
    step = op.arg(4, 1)
    if isinstance(start, Node) or step == 1 or not 0 <= start < step or stop < END or axis.size % step:
        return None
    if step == axis.size:
        return None
    pair = divide(axis, axis.size // step, op.where)
    if pair is None:
        return None
    pair[1].pin(f"every {step}-th taken at {op.where()}")
    return pair[0]


def _narrow(op: Operation) -> Value:
    """A slice that is given by its start and its length; counted from the end it selects by position."""
    axes = op.tensor(0)
    dim = positive(op.arg(1), len(axes))
    axis, start, length = axes[dim], op.arg(2), op.arg(3)
    if axis is None or isinstance(start, Node) or isinstance(length, Node) or start < 0 or length == 0:
        if axis is not None:
            axis.pin(f"narrowed by position at {op.where()}")
        return (*axes[:dim], op.fresh(op.shape()[dim], "narrowed by position"), *axes[dim + 1 :])
    parts = cut_at(op, axis, [size for size in (start, length, axis.size - start - length) if size])
    if start:
        op.state((2,), parts[0] or leaf(1))
    piece = parts[1 if start else 0]
    op.state((3,), piece or leaf(1))
    return (*axes[:dim], piece, *axes[dim + 1 :])


def _glu(op: Operation) -> Value:
    """One half gates the other: unit i of both goes at once."""
    axes = op.tensor(0)
    dim = positive(op.arg(1, -1), len(axes))
    half = op.shape()[dim]
    return broadcast([(*axes[:dim], part, *axes[dim + 1 :]) for part in cut_at(op, axes[dim], [half, half])], op.where)


def _select(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = positive(op.arg(1), len(axes))
    axis = axes[dim]
    if axis is not None:
        axis.pin(f"one position selected at {op.where()}")
    return (*axes[:dim], *axes[dim + 1 :])


def _unbind(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = positive(op.arg(1, 0), len(axes))
    axis = axes[dim]
    if axis is not None:
        axis.pin(f"unbound at {op.where()}")
    return tuple((*axes[:dim], *axes[dim + 1 :]) for _ in range(1 if axis is None else axis.size))


rule([aten.cat.default, aten.concat.default, aten.concatenate.default], _cat)
rule(aten.hstack.default, _hstack)
rule(aten.vstack.default, _vstack)
rule(aten.stack.default, _stack)
rule([aten.split_with_sizes.default, aten.split.sizes], _split)
rule(aten.slice.Tensor, _slice)
rule(aten.narrow.default, _narrow)
rule(aten.glu.default, _glu)
rule(aten.select.int, _select)
rule(aten.unbind.int, _unbind)
