"""Placement: which values become integers, and which of them share a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from graphc.ir.kinds import kind
from graphc.ir.program import Program

from ..contractions import Contraction
from .target import Rules

PADDING, ZERO = ("constant_pad_nd", "pad"), ("constant", None, 0)


@dataclass(frozen=True)
class Point:
    """A value that becomes integers.

    Attributes:
        node: its name.
        readers: names of the nodes that read the integers; empty for all of them.
        group: the name of the first value with the same scale.
        moved: is it one that only was moved, so that its numbers are those of others of the group?
    """

    node: str
    readers: tuple[str, ...]
    group: str
    moved: bool


def source(product: Contraction) -> tuple[Node, Node]:
    """What reads the value that a product takes, and that value: before a padding with zeros, as runtimes see it."""
    reader, value = product.node, product.data
    while kind(value) in PADDING and len(value.users) == 1 and all(arg in ZERO for arg in value.args[2:]):
        reader, value = value, value.all_input_nodes[0]
    return reader, value


def place(program: Program, rules: Rules, products: Sequence[Contraction]) -> list[Point]:
    """Where integers begin.

    What a product of integers gives is made integers where its kernel asks for it, after the ops that it
    absorbs; ops that follow or only move numbers stay in integers from there on, as long as a
    product reads it in the end. What a product reads and is still real becomes integers for its products alone.

    Args:
        program: the graph.
        rules: of the target and scheme.
        products: those that are to take integers.

    Returns:
        Points in graph order.
    """
    return _Placement(program, rules, products).points()


class _Placement:
    def __init__(self, program: Program, rules: Rules, products: Sequence[Contraction]) -> None:
        self.nodes = list(program.graph.nodes)
        self.rules = rules
        self.data = dict(source(product) for product in products)
        self.products = {product.node for product in products}
        self.inside: dict[Node, list[Node]] = {}
        """Nodes whose value is integers, or a tuple of such, and the nodes whose integers they are."""
        self.ends: dict[Node, Node] = {}
        """Where the op that is computed in integers ends, with all that it absorbs: there its integers begin."""
        self.wanted = self._wanted()

    def points(self) -> list[Point]:
        """See ``place``."""
        for node in self.nodes:
            self._visit(node)
        groups = self._groups()
        found: list[Point] = []
        for node in self.nodes:
            readers = [user for user, data in self.data.items() if data is node]
            if node in groups:
                moved = kind(node) in self.rules.share
                found.append(Point(node.name, (), groups[node].name, moved))
            elif readers:
                order = [user.name for user in self.nodes if user in readers]
                found.append(Point(node.name, tuple(order), node.name, False))
        return found

    def _wanted(self) -> set[Node]:
        """Nodes whose value a product reads as integers, through ops that have kernels for integers."""
        wanted: set[Node] = set()
        through = self.rules.follow | self.rules.share | self.rules.absorb
        for node in reversed(self.nodes):
            if any(self.data.get(user) is node or (user in wanted and kind(user) in through) for user in node.users):
                wanted.add(node)
        return wanted

    def _visit(self, node: Node) -> None:
        if node in self.inside:
            return
        name = kind(node)
        if node in self.products and self.rules.products[name] == "integer":
            self._begin(node)
        elif name in self.rules.follow | self.rules.share and node in self.wanted:
            read = node.all_input_nodes
            values = [n for n in read if not isinstance(n.meta.get("val"), (int, torch.SymInt))]
            if values and all(n in self.inside for n in values):
                if name in self.rules.share or name == "cat":
                    self.inside[node] = [source for n in values for source in self.inside[n]]
                    self.ends[node] = node
                else:
                    self._begin(node)

    def _begin(self, node: Node) -> None:
        """An op of integers: they begin after what it absorbs."""
        end = node
        while len(end.users) == 1 and kind(user := next(iter(end.users))) in self.rules.absorb:
            end = user
        self.inside[end] = [end]
        self.ends[end] = end

    def _groups(self) -> dict[Node, Node]:
        """For each value of integers the first one that shares its scale."""
        first: dict[Node, Node] = {}

        def root(node: Node) -> Node:
            while first.get(node, node) is not node:
                node = first[node]
            return node

        order = {node: i for i, node in enumerate(self.nodes)}
        for node, sources in self.inside.items():
            roots = sorted({root(source) for source in (node, *sources)}, key=order.__getitem__)
            for other in roots:
                first[other] = roots[0]
        return {node: root(node) for node in self.inside if isinstance(node.meta.get("val"), torch.Tensor)}
