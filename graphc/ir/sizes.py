"""Sizes: nodes that give the dynamic sizes of a graph, read off its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

SIZE = torch.ops.aten.sym_size.int


class Sizes:
    """The dynamic dims of the inputs of a graph.

    Args:
        graph: is changed where a size is asked for.
        without: an input that is about to go: what reads sizes off it reads them off another one.
    """

    def __init__(self, graph: Graph, without: Node) -> None:
        self.graph = graph
        self.last = [n for n in graph.nodes if n.op == "placeholder"][-1]
        self.places = {symbol: place for symbol, place in _places(graph) if place[0] is not without}
        self.nodes: dict[str, Node] = {}
        mine = {place[1]: symbol for symbol, place in _places(graph) if place[0] is without}
        for user in list(without.users):
            symbol = mine.get(int(user.args[1]), "") if user.target is SIZE else ""  # type: ignore[arg-type] # a dim
            if symbol in self.places:
                user.args = self.places[symbol]

    def of(self, shape: Iterable[Any]) -> list[int | Node] | None:
        """The sizes of a shape as arguments of an op; None if one is not a size of an input."""
        found = [size if type(size) is int else self._node(str(size.node.expr)) for size in shape]
        return None if None in found else found  # type: ignore[return-value] # as was just seen

    def _node(self, symbol: str) -> Node | None:
        """The node of a dynamic size, before everything but the inputs."""
        if symbol not in self.nodes:
            if symbol not in self.places:
                return None
            place = self.places[symbol]
            known = (n for n in self.graph.nodes if n.target is SIZE and n.args == place)
            self.nodes[symbol] = node = next(known, None) or self.graph.call_function(SIZE, place)
            self.last.append(node)
        return self.nodes[symbol]


def _places(graph: Graph) -> Iterator[tuple[str, tuple[Node, int]]]:
    """Symbols, and each dim of an input that has that size."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            sizes: Sequence[Any] = value.shape
            for i, size in enumerate(sizes):
                if isinstance(size, torch.SymInt):
                    yield str(size.node.expr), (node, i)
