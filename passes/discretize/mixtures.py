"""Mixtures: sums of values that are each weighted by an entry of a distribution, however they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphc.ir.program import Program

from .contraction import contractions, joins
from .weights import Entry, Row, Weights

aten = torch.ops.aten
PRODUCTS = {aten.mul.Tensor, aten.addcmul.default}
SPREADS = {aten.expand.default, aten.expand_as.default}


@dataclass(frozen=True, eq=False)
class Term:
    """A summand.

    Attributes:
        data: what is summed.
        entries: whose product it is weighted by, the outer first; none if it is not weighted.
    """

    data: Node
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, eq=False)
class Edge:
    """Candidates of which one is to stay.

    Attributes:
        row: their weights.
        candidates: the value of each place of the row; places that are missing add nothing.
        outer: the weight of the edge as a whole among others, if it has one.
        holder: what stands for the edge in the sum, if that is computed from a sum of the candidates.
        root: that sum; None if the candidates are summands themselves.
    """

    row: Row
    candidates: dict[int, Node]
    outer: Entry | None = None
    holder: Node | None = None
    root: Node | None = None


@dataclass(frozen=True, eq=False)
class Mixture:
    """A sum over edges: a node of a cell.

    Attributes:
        root: the value of the sum.
        edges: in the order of the sum.
        plain: summands that have no weight.
    """

    root: Node
    edges: tuple[Edge, ...]
    plain: tuple[Node, ...]


def find_mixtures(program: Program, weights: Weights) -> list[Mixture]:
    """All mixtures of a program, in graph order."""
    terms = _Sums(program, weights).roots()
    mixtures = {root: _mixture(root, found) for root, found in terms.items()}
    inner: set[Node] = set()
    for root in list(mixtures):
        merged = _with_inner(mixtures[root], mixtures)
        if merged is not None:
            inner |= {edge.root for edge in merged.edges if edge.root is not None}
            mixtures[root] = merged
    return [m for root, m in mixtures.items() if root not in inner and any(len(e.candidates) > 1 for e in m.edges)]


class _Sums:
    """One sweep over a graph that knows each value as the sum that it is."""

    def __init__(self, program: Program, weights: Weights) -> None:
        self.program = program
        self.weights = weights
        self.terms: dict[Node, list[Term]] = {}
        self.taken: set[Node] = set()

    def roots(self) -> dict[Node, list[Term]]:
        """The sums with weights that are no part of larger sums."""
        for node in self.program.graph.nodes:
            if node.op == "call_function" and node not in self.terms and node not in self.weights.numbers:
                self._read(node)
        whole = {root: found for root, found in self.terms.items() if root not in self.taken}
        return {root: found for root, found in whole.items() if any(term.entries for term in found)}

    def _summands(self, value: Node) -> list[Term]:
        """The terms of a value that has no other use, else the value."""
        if value in self.terms and len(value.users) == 1:
            self.taken.add(value)
            return self.terms[value]
        return [Term(value)]

    def _weighted(self, value: object) -> bool:
        return isinstance(value, Node) and len(value.users) == 1 and any(t.entries for t in self.terms.get(value, ()))

    def _read(self, node: Node) -> None:
        operands = [n for n in node.all_input_nodes if self.weights.weigh(_bare(n))]
        if node.target is aten.add.Tensor and not node.kwargs and any(map(self._weighted, node.args)):
            self._add(node)
        elif len(operands) == 1 and node.target is aten.addcmul.default and not node.kwargs:
            self._scale(node, operands[0], node.args[1:], node.args[:1])
        elif len(operands) == 1 and not self._scale(node, operands[0], node.args):
            self._contract(node, operands[0])
        elif not operands and joins(node) and any(map(self._weighted, node.all_input_nodes)):
            self._contract(node, None)

    def _add(self, node: Node) -> None:
        numbers = [value for value in node.args if not isinstance(value, Node)]
        if all(number == 0 for number in numbers):
            values = [value for value in node.args if isinstance(value, Node)]
            self.terms[node] = [term for value in values for term in self._summands(value)]

    def _scale(self, node: Node, operand: Node, factors: Sequence[Any], others: Sequence[Any] = ()) -> bool:
        """Read ``weight * value``, and what is added to it."""
        entries = self.weights.of(_bare(operand))
        data = next((value for value in factors if value is not operand), None)
        one = len(set(entries)) == 1 and node.target in PRODUCTS and isinstance(data, Node)
        if not one or not _same_shape(node, data):
            return False
        assert isinstance(data, Node)
        added = [term for value in others for term in self._summands(value)]
        self.terms[node] = [*added, *self._times(data, entries[0])]
        return True

    def _times(self, value: Node, entries: Sequence[Entry]) -> list[Term]:
        return [Term(term.data, (*entries, *term.entries)) for term in self._summands(value)]

    def _contract(self, node: Node, operand: Node | None) -> None:
        """Read an op that takes several values, or several weights, at once."""
        if operand is not None and operand not in self.weights.numbers:
            return
        for found in contractions(self.program, self.weights, node, operand):
            self.terms[found.root] = [term for entries, value in found.terms for term in self._times(value, entries)]


def _bare(node: Node) -> Node:
    """A tensor that was spread over the shape of a value."""
    while node.target in SPREADS:
        node = node.args[0]  # type: ignore[assignment] # a tensor by the op's schema
    return node


def _same_shape(node: Node, data: Any) -> bool:
    return [str(size) for size in node.meta["val"].shape] == [str(size) for size in data.meta["val"].shape]


def _mixture(root: Node, terms: Sequence[Term]) -> Mixture:
    """Group terms by the row that weighs them; the same row once more is another edge."""
    groups: list[tuple[Row, Entry | None, dict[int, Node]]] = []
    inside = _inside([term.entries for term in terms if len(term.entries) == 2])
    for term in terms:
        if term.entries:
            entry = term.entries[inside if len(term.entries) == 2 else -1]
            outer = term.entries[1 - inside] if len(term.entries) == 2 else None
            group = next((g for g in groups if g[:2] == (entry.row, outer) and entry.place not in g[2]), None)
            if group is None:
                group = (entry.row, outer, {})
                groups.append(group)
            group[2][entry.place] = term.data
    edges = tuple(Edge(row, candidates, outer) for row, outer, candidates in groups)
    plain = tuple(term.data for term in terms if not term.entries)
    return Mixture(root, edges, plain)


def _inside(products: Sequence[tuple[Entry, ...]]) -> int:
    """Which factor of ``weight of an edge * weight of a candidate`` is the candidate's: it varies within the other."""
    for inner in (1, 0):
        rows: dict[Entry, set[Row]] = {}
        for product in products:
            rows.setdefault(product[1 - inner], set()).add(product[inner].row)
        if all(len(found) == 1 for found in rows.values()):
            return inner
    return 1


def _with_inner(mixture: Mixture, mixtures: dict[Node, Mixture]) -> Mixture | None:
    """The mixture over edges that a sum is whose every weighted value is computed from one mixture of its own."""
    edges: list[Edge] = []
    for edge in mixture.edges:
        for place, holder in edge.candidates.items():
            found = [mixtures[root] for root in _nearest(holder, mixtures)]
            if len(found) != 1 or len(found[0].edges) != 1 or edge.outer is not None:
                return None
            inner = found[0].edges[0]
            if found[0].plain or inner.outer is not None:
                return None
            edges.append(Edge(inner.row, inner.candidates, Entry(edge.row, place), holder, found[0].root))
    return Mixture(mixture.root, tuple(edges), mixture.plain)


def _nearest(holder: Node, mixtures: dict[Node, Mixture]) -> list[Node]:
    """The mixtures that a value is computed from and nothing else is, but for those that these are made of."""
    cone, found = {holder}, []
    for node in _backward(holder):
        if node is not holder and not all(user in cone for user in node.users):
            continue
        cone.add(node)
        if node in mixtures and node is not holder:
            found.append(node)
    return [root for root in found if not any(root is not other and root in _sources(other, cone) for other in found)]


def _backward(node: Node) -> Iterator[Node]:
    """A node and all before it, the last first."""
    while node.op != "root":
        yield node
        node = node.prev


def _sources(node: Node, within: set[Node]) -> set[Node]:
    found, left = set(), [node]
    while left:
        for source in left.pop().all_input_nodes:
            if source in within and source not in found:
                found.add(source)
                left.append(source)
    return found
