"""Ops that show the same units in other dims: view, flatten, transpose, squeeze."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from graphc.axes.axis import Axis, Layout, factors, product
from graphc.axes.notation import broadcast
from graphc.axes.unify import take
from graphc.rules.operation import Operation, Value, positive
from graphc.rules.table import rule

aten = torch.ops.aten


def regroup(op: Operation, axes: Sequence[Axis | None], sizes: list[int]) -> Layout:
    """The same factors in dims of other sizes; where no boundary fits, all that lies between two that do is pinned."""
    return tuple(dim for own, new in _stretches(axes, sizes) for dim in _regrouped(op, own, new))


def _stretches(axes: Sequence[Axis | None], sizes: list[int]) -> Iterator[tuple[list[Axis | None], list[int]]]:
    """The shortest runs of dims that have as many positions before as after."""
    before, after = deque(axes), deque(sizes)
    own: list[Axis | None] = []
    new: list[int] = []
    while before or after:
        count = math.prod(1 if axis is None else axis.size for axis in own)
        if before and (count <= math.prod(new) or not after):
            own.append(before.popleft())
        else:
            new.append(after.popleft())
        if math.prod(1 if axis is None else axis.size for axis in own) == math.prod(new):
            yield own, new
            own, new = [], []
    if own or new:
        yield own, new


def _regrouped(op: Operation, axes: Sequence[Axis | None], sizes: list[int]) -> Layout:
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
    start, end = positive(op.arg(1, 0), len(axes)), positive(op.arg(2, -1), len(axes))
    return (*axes[:start], product(axes[start : end + 1]), *axes[end + 1 :])


def _ravel(op: Operation) -> Value:
    return (product(op.tensor(0)),)


def _unflatten(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = positive(op.arg(1), len(axes))
    sizes = op.numbers(2)
    if -1 in sizes:
        sizes = op.shape()[dim : dim + len(sizes)]
    dims = regroup(op, axes[dim : dim + 1], sizes)
    for i, (axis, literal) in enumerate(zip(dims, op.arg(2), strict=True)):
        if axis is not None and literal != -1:
            op.state((2, i), axis)
    return (*axes[:dim], *dims, *axes[dim + 1 :])


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
    moved = {positive(t, len(axes)): positive(s, len(axes)) for s, t in zip(source, target, strict=True)}
    rest = iter([d for d in range(len(axes)) if d not in moved.values()])
    return tuple(axes[moved[d] if d in moved else next(rest)] for d in range(len(axes)))


def _unsqueeze(op: Operation) -> Value:
    axes = op.tensor(0)
    dim = positive(op.arg(1), len(axes) + 1)
    return (*axes[:dim], None, *axes[dim:])


def _squeeze(op: Operation) -> Value:
    axes = op.tensor(0)
    if len(op.node.args) == 1:
        return tuple(axis for axis in axes if axis is not None)
    dims = {positive(d, len(axes)) for d in op.numbers(1)}
    return tuple(axis for i, axis in enumerate(axes) if axis is not None or i not in dims)


rule([aten.view.default, aten.reshape.default, aten._unsafe_view.default], _view)
rule([aten.view_as.default, aten.reshape_as.default], _view_as)
rule(aten.flatten.using_ints, _flatten)
rule(aten.ravel.default, _ravel)
rule(aten.unflatten.int, _unflatten)
rule([aten.transpose.int, aten.swapaxes.default, aten.swapdims.default], _transpose)
rule([aten.t.default, aten.numpy_T.default], _t)
rule(aten.view_as_complex.default, "... [part] -> ...")
rule(aten.view_as_real.default, "... -> ... [part]")
rule([aten.mT.default, aten.mH.default, aten.adjoint.default], "... a b -> ... b a")
rule(aten.permute.default, _permute)
rule([aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist], _movedim)
rule(aten.unsqueeze.default, _unsqueeze)
rule([aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims], _squeeze)
