"""Normalisations. What is averaged over is mixed: it can be cut, but other units change."""

from __future__ import annotations

from collections import deque

import torch

from graphc.axes.axis import Axis, Layout, factors, leaf, product
from graphc.axes.notation import broadcast
from graphc.axes.unify import take, unify
from graphc.rules.operation import Operation, Value, positive
from graphc.rules.table import Flow, rule

aten = torch.ops.aten


def _over_last(weights: tuple[int, ...]) -> Flow:
    """A norm over the trailing dims named by argument 1, with affine tensors at ``weights``."""

    def flow(op: Operation) -> Value:
        axes = op.tensor(0)
        rank = len(op.arg(1))
        for index in weights:
            for axis, own in zip(axes[-rank:], op.layout(index) or (), strict=False):
                unify(axis, own, op.where)
        for i, axis in enumerate(axes[-rank:]):
            if axis is not None:
                axis.mix()
                op.state((1, i), axis)
        return axes

    return flow


def _batch_norm(op: Operation) -> Value:
    """Per channel; over the other dims too where it takes its statistics from the data."""
    if op.arg(5):
        axes = op.tensor(0)
        _mix((axes[0], *axes[2:]))
    return _per_channel(op)


def _instance_norm(op: Operation) -> Value:
    """Each channel by itself, over its positions unless it has statistics."""
    if op.arg(5):
        _mix(op.tensor(0)[2:])
    return _per_channel(op)


def _per_channel(op: Operation) -> Value:
    axes = op.tensor(0)
    for index in range(1, 5):
        own = op.layout(index)
        if own:
            unify(axes[1], own[0], op.where)
    return axes


def _mix(axes: Layout) -> None:
    for axis in axes:
        if axis is not None:
            axis.mix()


def _group_norm(op: Operation) -> Value:
    return _in_groups(op, 1, (2, 3))[0]


def _in_groups(op: Operation, count: int, weights: tuple[int, ...]) -> tuple[Layout, Axis | None]:
    """A group is normalised by itself, so groups are exact and the units within are mixed.

    Returns the layout and the groups, whose number is argument ``count``.
    """
    axes = op.tensor(0)
    channels = axes[1]
    groups = op.number(op.arg(count))
    known = op.fresh(groups, "groups without a boundary")
    for index in weights:
        own = op.layout(index)
        if own:
            unify(channels, own[0], op.where)
    if channels is not None:
        parts = take(deque(factors(channels)), [groups, channels.size // groups], op.where)
        if parts is None:
            channels.pin(f"no common boundary with the groups of {op.where()}")
        else:
            known = parts[0]
            op.state((count,), known)
            if parts[1] is not None:
                parts[1].mix()
    _mix(axes[2:])
    return axes, known


def _native_group_norm(op: Operation) -> Value:
    """Batch, channels and positions are arguments too; mean and deviation of each group are results."""
    axes, groups = _in_groups(op, 6, (1, 2))
    for index, axis in ((3, axes[0]), (4, axes[1]), (5, product(axes[2:]))):
        op.state((index,), axis)
    return axes, (axes[0], groups), (axes[0], groups)


def _native_layer_norm(op: Operation) -> Value:
    axes = _over_last((2, 3))(op)
    rank = len(op.arg(1))
    alone = (*axes[:-rank], *[None] * rank)
    return axes, alone, alone


def _native_batch_norm(op: Operation) -> Value:
    """On stored statistics; those of the batch are results without entries."""
    nothing = (leaf(0, "there are no statistics of the batch"),)
    return _per_channel(op), nothing, nothing


def _weight_norm(op: Operation) -> Value:
    """A length along one dim of a weight, and a direction over all others."""
    axes, length = op.tensor(0), op.tensor(1)
    dim = positive(op.arg(2, 0), len(axes))
    _mix((*axes[:dim], *axes[dim + 1 :]))
    return broadcast([axes, length], op.where)


def _softmax(op: Operation) -> Value:
    axes = op.tensor(0)
    axis = axes[op.number(op.arg(1))] if axes else None
    if axis is not None:
        axis.mix()
    return axes


rule(aten.batch_norm.default, _batch_norm)
rule(aten.instance_norm.default, _instance_norm)
rule(aten.layer_norm.default, _over_last((2, 3)))
rule(aten.rms_norm.default, _over_last((2,)))
rule(aten.group_norm.default, _group_norm)
rule(aten.native_group_norm.default, _native_group_norm)
rule(aten.native_layer_norm.default, _native_layer_norm)
rule(aten._native_batch_norm_legit_no_training.default, _native_batch_norm)
rule(aten._weight_norm.default, _weight_norm)
rule(aten._weight_norm_interface.default, lambda op: (_weight_norm(op), op.tensor(1)))
rule([aten.softmax.int, aten._softmax.default, aten._safe_softmax.default], _softmax)
rule([aten.log_softmax.int, aten._log_softmax.default], _softmax)
