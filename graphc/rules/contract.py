"""Ops that sum over an axis of two operands: linear layers, matrix products, einsum.

The contracted axis is exact: removing a unit of it and zeroing it give the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, leaves
from graphc.axes.notation import Match, broadcast, parse
from graphc.rules.operation import Operation, Value
from graphc.rules.table import line, rule

aten = torch.ops.aten
WIDTH = {"o": "width"}

rule(aten.linear.default, "... i, o i, o -> ... o", roles=WIDTH, macs="... o i")
rule(aten.outer.default, "m, n -> m n")
rule([aten.dot.default, aten.vdot.default], "k, k -> ", macs="k")
rule(aten.mv.default, "m k, k -> m", macs="m k")
rule("transformers.grouped_mm_fallback.default", "[s] i, ~e i o, ~e -> [s] o", roles=WIDTH, macs="s i o")
rule(aten.bilinear.default, "... i, ... j, o i j, o -> ... o", roles=WIDTH, macs="... o i j")

_PRODUCTS = {
    (1, 1): parse("k, k -> "),
    (1, 2): parse("k, ... k n -> ... n"),
    (2, 1): parse("... m k, k -> ... m"),
    (2, 2): parse("... m k, ... k n -> ... m n"),
}
"""Matrix products by the dims of both sides; 2 stands for 2 or more."""


def _is_weight(op: Operation, index: int) -> bool:
    value = op.arg(index)
    return isinstance(value, Node) and value.op == "get_attr"


def _product(op: Operation, first: int) -> Value:
    """A matrix product of arguments ``first`` and ``first + 1``.

    Between two activations it is attention: leading axes are heads, the other axes their width.
    """
    left, right = op.tensor(first), op.tensor(first + 1)
    pattern = _PRODUCTS[min(len(left), 2), min(len(right), 2)]
    match = Match(pattern, {}, op.where)
    for operand, layout in zip(pattern.operands, (left, right), strict=True):
        assert operand is not None
        match.read(operand, layout)
    bound = match.bound
    if _is_weight(op, first) or _is_weight(op, first + 1):
        op.play(bound.get("n"), "width")
    else:
        for axis in match.leading:
            op.play(axis, "heads")
        op.play(bound.get("k"), "head_dim")
        op.play(bound.get("n"), "head_dim")
    op.cost(*match.leading, bound.get("m"), bound.get("k"), bound.get("n"))
    return match.write(pattern.results[0], op.shape)


def _biased_product(op: Operation) -> Value:
    """addmm, addmv, baddbmm: a matrix product and a bias that broadcasts over it."""
    result: Layout = _product(op, 1)
    return broadcast([result, op.tensor(0)], op.where)


def _einsum(op: Operation) -> Value:
    """The op's own notation is the rule; what is summed within one operand alone is mixed."""
    operands = [op.values[node] for node in op.arg(1)]
    match = Match(parse(_spaced(str(op.arg(0)), [len(layout) for layout in operands])), {}, op.where)
    for operand, layout in zip(match.pattern.operands, operands, strict=True):
        assert operand is not None
        match.read(operand, layout)
    for axis in _summed_alone(match, operands):
        axis.mix()
    if len(operands) > 1:
        op.cost(*match.bound.values())
    return match.write(match.pattern.results[0], op.shape)


def _summed_alone(match: Match, operands: Sequence[Layout]) -> list[Axis]:
    """Axes that are not in the result and not in two operands: a unit of zero there would not be nothing."""
    (result,) = match.pattern.results
    stay = {letter for dim in result.dims for letter in dim.letters}
    inside = [{x for axis in layout if axis is not None for x in leaves(axis)} for layout in operands]
    gone = [axis for letter, axis in match.bound.items() if letter not in stay]
    parts = [x for axis in gone if axis is not None for x in leaves(axis)]
    return [x for x in parts if sum(x in axes for axes in inside) < 2]


def _spaced(equation: str, ranks: Sequence[int]) -> str:
    """An equation of einsum as a line of notation: ``...`` becomes as many letters as it stands for."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    hidden = [rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term]
    rest = [f"dim{i}" for i in range(max(hidden, default=0))]
    if not arrow:
        letters = sorted(set(left) - set(",."))
        right = ("..." if hidden else "") + "".join(c for c in letters if left.count(c) == 1)

    def words(term: str, dims: Sequence[str]) -> str:
        before, dots, after = term.partition("...")
        return " ".join([*before, *(dims if dots else ()), *after])

    given = [words(term, rest[len(rest) - (rank - len(term) + 3) :]) for term, rank in zip(terms, ranks, strict=True)]
    return f"{', '.join(given)} -> {words(right, rest)}"


GROUPED = {
    (2, 3): line("[s] i, ~e i o, ~e -> [s] o", roles=WIDTH, macs="s i o"),
    (3, 3): line("e s i, e i o -> e s o", roles=WIDTH, macs="e s i o"),
    (3, 2): line("[e] [s] i, i [t], [e] -> [s] [t]", macs="s i t"),
    (2, 2): line("[s] [i], [i] [t], [e] -> [e] [s] [t]", macs="s i t"),
}
"""Products by group, by the dims of both sides."""

ROW = 16
"""Bytes of which the rows of both sides must have a multiple."""


def _grouped(op: Operation) -> Value:
    """Rows or matrices, each with the matrix of its group; what is contracted and what results lies in rows."""
    left, right = op.tensor(0), op.tensor(1)
    multiple = ROW // op.node.args[0].meta["val"].element_size()  # type: ignore[union-attr] # a tensor by the schema
    for axis in (left[-1], right[-1]):
        op.need(axis, multiple=multiple)
    return GROUPED[len(left), len(right)](op)


rule(aten._grouped_mm.default, _grouped)
rule(aten.matmul.default, lambda op: _product(op, 0))
rule(aten.mm.default, lambda op: _product(op, 0))
rule(aten.bmm.default, lambda op: _product(op, 0))
rule([aten.addmm.default, aten.addmv.default, aten.baddbmm.default], _biased_product)
rule(aten.einsum.default, _einsum)
