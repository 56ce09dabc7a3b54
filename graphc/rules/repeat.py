"""Ops that repeat, move or pad positions: expand makes a new axis, roll and pad keep theirs whole."""

from __future__ import annotations

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, leaf, product
from graphc.axes.notation import broadcast
from graphc.rules.operation import Operation, Value, positive
from graphc.rules.table import Flow, rule

aten = torch.ops.aten


def _expand(op: Operation) -> Value:
    axes = op.tensor(0)
    literals = op.arg(1)
    lead = len(literals) - len(axes)
    dims: list[Axis | None] = [*[None] * lead, *axes]
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
    dims: list[Axis | None] = [*[None] * (len(counts) - len(axes)), *axes]
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
    dim = positive(dim, len(axes))
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


def _diff(op: Operation) -> Value:
    """Differences of neighbours."""
    dim = positive(op.arg(2, -1), len(op.tensor(0)))
    for layout in op.inputs():
        if (axis := layout[dim]) is not None:
            axis.pin(f"neighbours meet at {op.where()}")
    rest = broadcast([(*axes[:dim], None, *axes[dim + 1 :]) for axes in op.inputs()], op.where)
    return (*rest[:dim], op.fresh(op.shape()[dim], "neighbours meet"), *rest[dim + 1 :])


def _unfold(op: Operation) -> Value:
    axes = list(op.tensor(0))
    dim = positive(op.arg(1), len(axes))
    axis = axes[dim]
    if axis is not None:
        axis.pin(f"windows taken at {op.where()}")
    sizes = op.shape()
    axes[dim] = op.fresh(sizes[dim], "windows")
    return (*axes, op.fresh(sizes[-1], "a window"))


rule([aten.expand.default, aten.broadcast_to.default], _expand)
rule(aten.expand_as.default, _expand_as)
rule(aten.repeat.default, _repeat)
rule(aten.tile.default, _tile)
rule(aten.repeat_interleave.self_int, _repeat_interleave)
rule(aten.roll.default, _whole(2))
rule(aten.flip.default, _whole(1))
rule(
    [
        aten.pad.default,
        aten.constant_pad_nd.default,
        *(getattr(aten, f"{kind}_pad{rank}d").default for kind in ("reflection", "replication") for rank in (1, 2, 3)),
    ],
    _pad,
)
rule(aten.unfold.default, _unfold)
rule(aten.diff.default, _diff)
