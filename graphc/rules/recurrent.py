"""Recurrent layers and cells: the hidden units are one axis through gates, states and time.

Zero columns of the recurrent weight are enough: a unit that no other unit reads has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, total
from graphc.axes.unify import divide, unify
from graphc.rules.operation import Operation, Value
from graphc.rules.table import rule

aten = torch.ops.aten

GATES: dict[Any, int] = {
    aten.lstm.input: 4,
    aten.gru.input: 3,
    aten.rnn_tanh.input: 1,
    aten.rnn_relu.input: 1,
    aten.lstm_cell.default: 4,
    aten.gru_cell.default: 3,
    aten.rnn_tanh_cell.default: 1,
    aten.rnn_relu_cell.default: 1,
}
"""How many times the hidden units stand in the rows of the weights."""


def _same(op: Operation, a: Axis | None, b: Axis | None) -> None:
    unify(a, b, op.where)


def _rows(op: Operation, rows: Axis | None, units: Axis | None) -> None:
    """The rows of a weight are (gates, units)."""
    gates = GATES[op.node.target]
    if gates == 1:
        _same(op, rows, units)
    elif rows is not None:
        pair = divide(rows, gates, op.where) if units is not None else None
        if pair is None:
            rows.pin(f"no common boundary with the gates of {op.where()}")
        else:
            pair[0].pin(f"the gates of {op.where()}")
            _same(op, pair[1], units)


def _weights(op: Operation, weights: Sequence[Layout], read: Axis | None, fed: Axis | None, units: Axis | None) -> None:
    """The tensors of one layer in one direction: from the input, from the state, biases, and a projection.

    Args:
        op: the node.
        weights: their layouts, in torch's order.
        read: the axis of the input.
        fed: the axis of the state that is fed back.
        units: the hidden units; the same as ``fed`` where there is no projection.
    """
    from_input, from_state, *rest = weights
    _same(op, from_input[1], read)
    _same(op, from_state[1], fed)
    for layout in (from_input, from_state, *(x for x in rest if len(x) == 1)):
        _rows(op, layout[0], units)
    for projection in (x for x in rest if len(x) == 2):
        _same(op, projection[0], fed)
        _same(op, projection[1], units)


def _layers(op: Operation) -> Value:
    """Layers over time, in one or two directions; their states are stacked, so all have the same units."""
    data, given = op.tensor(0), op.arg(1)
    states = [op.values[node] for node in (given if isinstance(given, (list, tuple)) else [given])]
    nodes = op.arg(2)
    count, directions = op.arg(4), 2 if op.arg(7) else 1
    batch, time = data[:2] if op.arg(8) else (data[1], data[0])
    if time is not None:
        time.pin(f"steps in time of {op.where()}")
    for state in states:
        if state[0] is not None:
            state[0].pin(f"the layers of {op.where()}")
        _same(op, state[1], batch)
    fed, units = states[0][2], states[-1][2]
    op.play(units, "width")
    per = len(nodes) // (count * directions)
    if not any(len(op.values[node]) == 2 for node in nodes[2:per]):
        _same(op, fed, units)
    read = data[2]
    for layer in _groups([op.values[node] for node in nodes], per * directions):
        for weights in _groups(layer, per):
            _weights(op, weights, read, fed, units)
            for weight in (x for x in weights if len(x) == 2):
                op.cost(*data[:2], *weight)
        read = fed if directions == 1 else _two(op, fed)
    return ((*data[:2], read), *states)


def _groups(values: Sequence[Layout], length: int) -> list[Sequence[Layout]]:
    return [values[i : i + length] for i in range(0, len(values), length)]


def _two(op: Operation, units: Axis | None) -> Axis | None:
    """Both directions, one after the other."""
    return op.fresh(2, "two directions") if units is None else total([units, units])


def _cell(op: Operation) -> Value:
    """One step: the new states are as the old ones."""
    given = op.arg(1)
    states = [op.values[node] for node in (given if isinstance(given, (list, tuple)) else [given])]
    data = op.tensor(0)
    for state in states:
        for a, b in zip(state[:-1], data[:-1], strict=True):
            _same(op, a, b)
    units = states[0][-1]
    for state in states[1:]:
        _same(op, state[-1], units)
    op.play(units, "width")
    weights = [layout for i in range(2, 6) if isinstance(op.arg(i), Node) and (layout := op.layout(i)) is not None]
    _weights(op, weights, data[-1], units, units)
    for weight in weights[:2]:
        op.cost(*data[:-1], *weight)
    results = tuple(states)
    return results if len(results) > 1 else results[0]


rule([aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input], _layers)
rule(
    [aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default],
    _cell,
)
