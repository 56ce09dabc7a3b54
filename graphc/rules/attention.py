"""Scaled dot product attention.

With fewer key/value heads than query heads (grouped-query attention), the query heads are
``(kv rep)``: removing a key/value head removes its whole group of queries.
"""

from __future__ import annotations

import torch

from graphc.axes.axis import Axis, leaf
from graphc.axes.notation import Bindings, Match, parse
from graphc.axes.unify import unify
from graphc.rules.operation import Operation, Value
from graphc.rules.table import rule

aten = torch.ops.aten

_PLAIN = parse("... h s d, ... h t d, ... h t e -> ... h s e")
_GROUPED = parse("... (h r) s d, ... h t d, ... h t e -> ... (h r) s e")


def _attention(op: Operation) -> Value:
    query, key = op.tensor(0), op.tensor(1)
    grouped = bool(op.arg("enable_gqa", False)) and query[-3] is not None and query[-3] is not key[-3]
    pattern = _GROUPED if grouped else _PLAIN
    match = Match(pattern, {}, op.where)
    if grouped and query[-3] is not None:
        heads = key[-3]
        match.bound["h"] = heads
        rep = query[-3].size // (heads.size if heads is not None else 1)
        match.bound["r"] = None if rep == 1 else leaf(rep)
    for operand, layout in zip(pattern.operands, (query, key, op.tensor(2)), strict=True):
        assert operand is not None
        match.read(operand, layout)
    bound = match.bound
    for letter, role in {"h": "heads", "r": "repeat", "d": "head_dim", "e": "head_dim"}.items():
        op.play(bound.get(letter), role)
    keys = bound.get("t")
    if keys is not None:
        keys.mix()
    _arguments(op, bound)
    _mask(op, [*match.leading, query[-3], bound.get("s"), keys])
    for width in ("d", "e"):
        op.cost(*match.leading, bound.get("h"), bound.get("r"), bound.get("s"), keys, bound.get(width))
    return match.write(pattern.results[0], op.shape)


def _arguments(op: Operation, bound: Bindings) -> None:
    """What is counted: positions where later keys are hidden, the width where no scale is given."""
    for letter in "st" if op.arg(5, False) else "":
        axis = bound.get(letter)
        if axis is not None:
            axis.pin(f"positions of a causal attention at {op.where()}")
    width = bound.get("d")
    if width is not None and op.arg("scale") is None:
        width.mix()


def _mask(op: Operation, scores: list[Axis | None]) -> None:
    mask = op.layout(3)
    for i in range(1, len(mask or ()) + 1):
        assert mask is not None
        unify(mask[-i], scores[-i], op.where)


rule(aten.scaled_dot_product_attention.default, _attention)
