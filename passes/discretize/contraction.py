"""Contractions: which of several values an op gives for each of its weights, found out by trying.

A sum over candidates can be written as a stack times a vector and a sum, as an einsum, a tensordot, a matrix product
between reshapes. Given one-hot weights, and random values for the candidates, each of these gives back the value of
one candidate, exactly; given any weights, the same as the weighted sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphc.ir.canonical import CASTS
from graphc.ir.edit import evaluate
from graphc.ir.functional import source_of
from graphc.ir.program import Program
from graphc.rules.operation import hint, sizes_of

from .weights import Entry, Weights

aten = torch.ops.aten
JOINS = {aten.stack.default, aten.cat.default}
AFTER = {aten.clone.default, aten.sum.dim_IntList, aten.sum.default, aten.mean.dim} | CASTS
"""Ops, besides views, that may follow in the same contraction."""
LEVELS = 5
"""How many joins and views may lie between a candidate and its weight."""

Pair = tuple[tuple[Entry, ...], Node]


@dataclass(frozen=True)
class Contraction:
    """A value that is a weighted sum.

    Attributes:
        root: the value.
        terms: what it sums, each with the entries that it is weighted by.
    """

    root: Node
    terms: Sequence[Pair]


def joins(node: Node) -> bool:
    """Does an op put values side by side?"""
    return node.target in JOINS


def contractions(program: Program, weights: Weights, start: Node, operand: Node | None) -> Iterator[Contraction]:
    """The weighted sums that an op begins.

    Args:
        program: stays as it is.
        weights: of the program.
        start: the op that has the weights as an operand, or that joins values that are weighted already.
        operand: the weights; None if there are none.
    """
    values = [n for n in start.all_input_nodes if n is not operand and _is_real(n)]
    inside = {start}
    for _ in range(LEVELS):
        trial = _Trial(program, weights, operand, values, inside)
        found = list(trial.roots(start))
        if found:
            yield from found
            return
        opened = [n for n in values if (joins(n) or _is_view(n)) and _operands(n)]
        if not opened:
            return
        inside = inside | set(opened)
        values = list(dict.fromkeys(s for n in values for s in (_operands(n) if n in opened else [n])))


def _operands(node: Node) -> list[Node]:
    return [n for n in node.all_input_nodes if _is_real(n)]


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_view(node: Node) -> bool:
    copy = node.target is aten.clone.default or (source_of(node) is not None and node.target is not aten.einsum.default)
    return node.op == "call_function" and copy


class _Trial:
    """A part of a graph between values and sums of them, run on made-up values and weights."""

    def __init__(
        self, program: Program, weights: Weights, operand: Node | None, values: Sequence[Node], inside: set[Node]
    ) -> None:
        self.program = program
        self.constant = weights.constant
        self.operand = operand
        self.values = values
        self.inside = set(inside)
        self.generator = torch.Generator().manual_seed(0)
        self.random = {value: self._made(value) for value in values}
        places: dict[tuple[Entry, ...], list[int]] = {}
        for i, entries in enumerate(weights.of(operand) if operand is not None else ()):
            places.setdefault(entries, []).append(i)
        self.places = places

    def roots(self, start: Node) -> Iterator[Contraction]:
        """The first values after the op, on each way, that are sums of the candidates."""
        left = [start]
        while left:
            node = left.pop(0)
            terms = self._terms(node) if isinstance(node.meta.get("val"), torch.Tensor) else None
            if terms is not None:
                if terms:
                    yield Contraction(node, terms)
                continue
            after = [u for u in node.users if u.target in AFTER or _is_view(u)]
            self.inside |= set(after)
            left += after

    def _terms(self, root: Node) -> list[Pair] | None:
        """What a value sums; None if it is no such sum."""
        trials: list[tuple[tuple[Entry, ...], Node | None]] = [(entries, None) for entries in self.places]
        if self.operand is None:
            trials = [((), value) for value in self.values]
        terms: list[Pair] = []
        for entries, only in trials:
            candidates = self.random if only is None else {v: r * (v is only) for v, r in self.random.items()}
            result = self._run(root, candidates, {entries: 1})
            if result is None:
                return None
            if bool((result == 0).all()):
                continue
            same = next((value for value, made in self.random.items() if _equal(made, result)), None)
            if same is None:
                return None
            terms.append((entries, same))
        return terms if self._is_linear(root, terms) else None

    def _is_linear(self, root: Node, terms: Sequence[Pair]) -> bool:
        whole = {value: made.sign() * made.abs().clamp(max=4).ceil() for value, made in self.random.items()}
        factors = {entries: 1 + i % 2 for i, entries in enumerate(self.places)}
        expected: Any = sum(factors.get(entries, 1) * whole[value] for entries, value in terms)
        result = self._run(root, whole, factors)
        return not terms or (result is not None and _equal(expected, result))

    def _run(self, root: Node, values: dict[Node, torch.Tensor], factors: dict[tuple[Entry, ...], int]) -> Any:
        """The value of a node, or None if it depends on anything else."""
        known: dict[Node, Any] = dict(values)
        if self.operand is not None:
            known[self.operand] = self._vector(factors)
        with torch.no_grad():
            return self._value(root, known)

    def _vector(self, factors: dict[tuple[Entry, ...], int]) -> torch.Tensor:
        assert self.operand is not None
        like = self.operand.meta["val"]
        flat = torch.zeros(like.numel(), dtype=like.dtype)
        for entries, factor in factors.items():
            flat[self.places[entries]] = factor
        return flat.reshape(like.shape)

    def _value(self, node: Node, known: dict[Node, Any]) -> Any:
        if node in known:
            return known[node]
        value = node.meta.get("val")
        if not isinstance(value, (torch.Tensor, list, tuple)):
            return hint(value)
        if node in self.constant:
            constant = evaluate(self.program, {node})[node]
            return constant.cpu() if isinstance(constant, torch.Tensor) else constant
        if node not in self.inside:
            return None
        found = {n: self._value(n, known) for n in node.all_input_nodes}
        if any(v is None for v in found.values()):
            return None
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
        known[node] = node.target(*args, **kwargs)  # type: ignore[operator] # an op
        return known[node]

    def _made(self, node: Node) -> torch.Tensor:
        like = node.meta["val"]
        sizes = [hint(size) for size in sizes_of(like)]
        return torch.randn(sizes, generator=self.generator).to(like.dtype)


def _equal(a: Any, b: torch.Tensor) -> bool:
    return isinstance(a, torch.Tensor) and a.shape == b.shape and bool((a == b).all())
