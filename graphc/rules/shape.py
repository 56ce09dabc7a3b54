"""Ops that only re-arrange: view, transpose, cat, split, expand. Sizes they repeat are stated."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, factors, leaf, product, total
from graphc.axes.notation import broadcast
from graphc.axes.unify import ONE_UNIT, cut, take
from graphc.rules.operation import Operation, Value
from graphc.rules.table import Flow, rule

aten = torch.ops.aten
END = 2**62


def regroup(op: Operation, axes: Sequence[Axis | None], sizes: list[int]) -> Layout:
    """The same factors in dims of other sizes; pins all of them where no boundary fits."""
    queue: deque[Axis] = deque()
    for axis in axes:
        if axis is not None:
            queue.extend(factors(axis))
    dims = take(queue, sizes, op.where)
    if dims is not None and not queue:
        return tuple(dims)
    why = f"no common boundary with the sizes {sizes}"
    for axis in axes:
        if axis is not None:
            axis.pin(f"{why} at {op.where()}")
    return tuple(op.fresh(size, why) for size in sizes)


def _view(op: Operation) -> Value:
    axes = op.tensor(0)
    sizes = op.numbers(1)
    if -1 in sizes:
        sizes = op.shape()
    dims = regroup(op, axes, sizes)
    for i, (axis, literal) in enumerate(zip(dims, op.arg(1), strict=True)):
        if axis is not None and literal != -1:
            op.state((1, i), axis)
    return dims


def _view_as(op: Operation) -> Value:
    dims = regroup(op, op.tensor(0), op.shape())
    return broadcast([dims, op.tensor(1)], op.where)


def _flatten(op: Operation) -> Value:
    axes = op.tensor(0)
    start, end = _dim(op.arg(1, 0), len(axes)), _dim(op.arg(2, -1), len(axes))
    return (*axes[:start], product(axes[start : end + 1]), *axes[end + 1 :])


def _unflatten(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = _dim(op.arg(1), len(axes))
    sizes = op.numbers(2)
    if -1 in sizes:
        sizes = op.shape()[dim : dim + len(sizes)]
    dims = regroup(op, axes[dim : dim + 1], sizes)
    for i, (axis, literal) in enumerate(zip(dims, op.arg(2), strict=True)):
        if axis is not None and literal != -1:
            op.state((2, i), axis)
    return (*axes[:dim], *dims, *axes[dim + 1 :])


def _dim(dim: int, rank: int) -> int:
    return dim + rank if dim < 0 else dim


def _transpose(op: Operation) -> Value:
    axes = list(op.tensor(0))
    a, b = op.arg(1), op.arg(2)
    axes[a], axes[b] = axes[b], axes[a]
    return tuple(axes)


def _t(op: Operation) -> Value:
    return op.tensor(0)[::-1]


def _permute(op: Operation) -> Value:
    axes = op.tensor(0)
    return tuple(axes[d] for d in op.arg(1))


def _movedim(op: Operation) -> Value:
    axes = op.tensor(0)
    source, target = (v if isinstance(v, (list, tuple)) else [v] for v in (op.arg(1), op.arg(2)))
    moved = {_dim(t, len(axes)): _dim(s, len(axes)) for s, t in zip(source, target, strict=True)}
    rest = iter([d for d in range(len(axes)) if d not in moved.values()])
    return tuple(axes[moved[d] if d in moved else next(rest)] for d in range(len(axes)))


def _unsqueeze(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = _dim(op.arg(1), len(axes) + 1)
    return (*axes[:dim], None, *axes[dim:])


def _squeeze(op: Operation) -> Value:
    axes = op.tensor(0)
    if len(op.node.args) == 1:
        return tuple(axis for axis in axes if axis is not None)
    dims = {_dim(d, len(axes)) for d in op.numbers(1)}
    return tuple(axis for i, axis in enumerate(axes) if axis is not None or i not in dims)


def _cat(op: Operation) -> Value:
    layouts = [op.values[node] for node in op.arg(0)]
    layouts = [layout for layout in layouts if layout or layout == ()]
    rank = max(len(layout) for layout in layouts)
    layouts = [layout for layout in layouts if len(layout) == rank]
    dim = _dim(op.arg(1, 0), rank)
    rest = broadcast([(*layout[:dim], None, *layout[dim + 1 :]) for layout in layouts], op.where)
    parts = [layout[dim] or leaf(1, ONE_UNIT) for layout in layouts]
    return (*rest[:dim], total(parts), *rest[dim + 1 :])


def _stack(op: Operation) -> Value:
    layouts = [op.values[node] for node in op.arg(0)]
    rest = broadcast(layouts, op.where)
    dim = _dim(op.arg(1, 0), len(rest) + 1)
    return (*rest[:dim], op.fresh(len(layouts), "tensors stacked"), *rest[dim:])


def _split(op: Operation) -> Value:
    """split_with_sizes: the dim is the sum of the parts."""
    axes = op.tensor(0)
    dim = _dim(op.arg(2, 0), len(axes))
    sizes = op.numbers(1)
    parts = cut_at(op, axes[dim], sizes)
    for i, part in enumerate(parts):
        op.state((1, i), part if part is not None else leaf(1))
    return tuple((*axes[:dim], part, *axes[dim + 1 :]) for part in parts)


def cut_at(op: Operation, axis: Axis | None, sizes: list[int]) -> list[Axis | None]:
    """Cut an axis into consecutive parts; where it cannot be cut there, pin it and give new parts."""
    if axis is None or len(sizes) == 1:
        return [axis for _ in sizes]
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
    dim = _dim(op.arg(1, 0), len(axes))
    axis = axes[dim]
    if axis is None:
        return axes
    start, end = op.arg(2, None) or 0, op.arg(3, None)
    stop = END if end is None else op.number(end)
    if op.number(start) == 0 and stop >= axis.size and op.arg(4, 1) == 1 and (end is None or stop >= END):
        return axes
    result = op.shape()[dim]
    if isinstance(start, Node) or isinstance(end, Node) or op.arg(4, 1) != 1 or start < 0 or stop < 0:
        axis.pin(f"sliced by position at {op.where()}")
        return (*axes[:dim], op.fresh(result, "sliced by position"), *axes[dim + 1 :])
    sizes = [start, result, axis.size - start - result]
    parts = cut_at(op, axis, [size for size in sizes if size])
    before, piece = (parts[0], parts[1]) if start else (None, parts[0])
    if start:
        op.state((2,), before if before is not None else leaf(1))
    if stop < END:
        op.state((3,), *([before if before is not None else leaf(1)] if start else []), piece or leaf(1))
    return (*axes[:dim], piece, *axes[dim + 1 :])


def _select(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = _dim(op.arg(1), len(axes))
    axis = axes[dim]
    if axis is not None:
        axis.pin(f"one position selected at {op.where()}")
    return (*axes[:dim], *axes[dim + 1 :])


def _unbind(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = _dim(op.arg(1, 0), len(axes))
    axis = axes[dim]
    if axis is not None:
        axis.pin(f"unbound at {op.where()}")
    return tuple((*axes[:dim], *axes[dim + 1 :]) for _ in range(1 if axis is None else axis.size))


def _expand(op: Operation) -> Value:
    axes = op.tensor(0)
    literals = op.arg(1)
    lead = len(literals) - len(axes)
    dims: list[Axis | None] = [None] * lead + list(axes)
    for i, literal in enumerate(literals):
        if literal == -1:
            continue
        size = op.number(literal)
        if dims[i] is None and size != 1:
            dims[i] = _grown(op, literal, size)
        if dims[i] is not None:
            op.state((1, i), dims[i])
    return tuple(dims)


def _grown(op: Operation, literal: Node | int, size: int) -> Axis | None:
    """A dim made by repetition; a size that comes from an input stays whole."""
    if isinstance(literal, Node):
        return op.fresh(size, "a size given by an input")
    axis = leaf(size)
    op.play(axis, "repeat")
    return axis


def _expand_as(op: Operation) -> Value:
    other = op.tensor(1)
    return broadcast([other, op.tensor(0)], op.where)


def _repeat(op: Operation) -> Value:
    axes = op.tensor(0)
    counts = op.arg(1)
    dims: list[Axis | None] = [None] * (len(counts) - len(axes)) + list(axes)
    for i, count in enumerate(counts):
        size = op.number(count)
        if size != 1:
            times = _grown(op, count, size)
            op.state((1, i), times)
            dims[i] = product([times, dims[i]])
    return tuple(dims)


def _tile(op: Operation) -> Value:
    counts = op.arg(1)
    axes = op.tensor(0)
    if len(counts) >= len(axes):
        return _repeat(op)
    lead = len(axes) - len(counts)
    dims = list(axes)
    for i, count in enumerate(counts):
        if op.number(count) != 1:
            times = _grown(op, count, op.number(count))
            op.state((1, i), times)
            dims[lead + i] = product([times, dims[lead + i]])
    return tuple(dims)


def _repeat_interleave(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = op.arg(2, op.arg("dim"))
    if dim is None:
        axes, dim = (product(axes),), 0
    times = _grown(op, op.arg(1), op.number(op.arg(1)))
    op.state((1,), times)
    dim = _dim(dim, len(axes))
    return (*axes[:dim], product([axes[dim], times]), *axes[dim + 1 :])


def _whole(first: int) -> Flow:
    """Ops that move positions along the dims named by an argument: those stay whole."""

    def flow(op: Operation) -> Value:
        axes = op.tensor(0)
        dims = op.numbers(first) if len(op.node.args) > first and op.arg(first) != [] else range(len(axes))
        for dim in dims:
            axis = axes[dim]
            if axis is not None:
                axis.pin(f"positions move at {op.where()}")
        return axes

    return flow


def _pad(op: Operation) -> Value:
    axes, sizes = list(op.tensor(0)), op.shape()
    pads = op.arg(1)
    for i in range(len(pads) // 2):
        if pads[2 * i] == 0 and pads[2 * i + 1] == 0:
            continue
        axis = axes[-1 - i]
        if axis is not None:
            axis.pin(f"padded at {op.where()}")
        axes[-1 - i] = op.fresh(sizes[-1 - i], "padded")
    return tuple(axes)


def _unfold(op: Operation) -> Value:
    axes = list(op.tensor(0))
    dim = _dim(op.arg(1), len(axes))
    axis = axes[dim]
    if axis is not None:
        axis.pin(f"windows taken at {op.where()}")
    sizes = op.shape()
    axes[dim] = op.fresh(sizes[dim], "windows")
    return (*axes, op.fresh(sizes[-1], "a window"))


rule([aten.view.default, aten.reshape.default, aten._unsafe_view.default], _view)
rule([aten.view_as.default, aten.reshape_as.default], _view_as)
rule(aten.flatten.using_ints, _flatten)
rule(aten.unflatten.int, _unflatten)
rule([aten.transpose.int, aten.swapaxes.default, aten.swapdims.default], _transpose)
rule([aten.t.default, aten.numpy_T.default], _t)
rule(aten.mT.default, "... a b -> ... b a")
rule(aten.permute.default, _permute)
rule([aten.movedim.int, aten.movedim.intlist], _movedim)
rule(aten.unsqueeze.default, _unsqueeze)
rule([aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims], _squeeze)
rule([aten.cat.default, aten.concat.default], _cat)
rule(aten.stack.default, _stack)
rule([aten.split_with_sizes.default, aten.split.sizes], _split)
rule(aten.slice.Tensor, _slice)
rule(aten.select.int, _select)
rule(aten.unbind.int, _unbind)
rule(aten.expand.default, _expand)
rule(aten.expand_as.default, _expand_as)
rule(aten.repeat.default, _repeat)
rule(aten.tile.default, _tile)
rule(aten.repeat_interleave.self_int, _repeat_interleave)
rule(aten.roll.default, _whole(2))
rule(aten.flip.default, _whole(1))
rule(
    [aten.pad.default, aten.constant_pad_nd.default, aten.reflection_pad2d.default, aten.replication_pad2d.default],
    _pad,
)
rule(aten.unfold.default, _unfold)
