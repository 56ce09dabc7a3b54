"""Quantised ops found again where a format has only the arithmetic that they are."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.proxy import GraphAppendingTracer, Proxy

from graphc.ir.quantized import DEQUANTIZE, FAKE, MEANING, QUANTIZE, RANGES

WHOLE = {FAKE: ("zero_point",), QUANTIZE: ("zero_point",), DEQUANTIZE: ("x", "zero_point")}
"""Arguments that are integers; on real numbers the same arithmetic is nothing but arithmetic."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """What one op is in ATen, as a graph: nodes that any value may stand for, and nodes that must be there.

    Attributes:
        op: what it says.
        arguments: of the op, by name.
        results: the node of each result; what the first is made of is the whole pattern.
        nodes: all of them, in order.
    """

    op: Any
    arguments: dict[str, Node]
    results: tuple[Node, ...]
    nodes: tuple[Node, ...]

    @staticmethod
    def of(op: Any) -> Pattern:
        """Write down what the op does, by doing it to nothing."""
        graph = Graph()
        tracer = GraphAppendingTracer(graph)
        arguments = {argument.name: graph.placeholder(argument.name) for argument in op._schema.arguments}
        given = [Proxy(node, tracer) for node in arguments.values()]
        made = MEANING[op](*given)(*given)
        results = tuple(proxy.node for proxy in (made if isinstance(made, tuple) else (made,)))
        return Pattern(op, arguments, results, tuple(graph.nodes))

    def match(self, root: Node) -> dict[Node, Any] | None:
        """What stands for each node if this value is the op's first result, or None."""
        found: dict[Node, Any] = {}
        if not _same(self.results[0], root, found) or not self._fits(found):
            return None
        inside, made = {found[node] for node in self.computed()}, {found[node] for node in self.results}
        for node in inside:
            if any(user not in inside and (node not in made or user < root) for user in node.users):
                return None
        return found

    def computed(self) -> list[Node]:
        """The nodes that are arithmetic."""
        return [node for node in self.nodes if node.op == "call_function" and node.target is not getattr]

    def _fits(self, found: Mapping[Node, Any]) -> bool:
        """Have the arguments the types that the op and its arithmetic ask for?"""
        for argument in self.op._schema.arguments:
            value: Any = found[self.arguments[argument.name]]
            value = value.meta["val"] if isinstance(value, Node) else value
            if not isinstance(value, torch.Tensor if str(argument.type) == "Tensor" else int):
                return False
            if argument.name in WHOLE.get(self.op, ()) and getattr(value, "dtype", None) not in RANGES:
                return False
        asked = [node for node in self.nodes if node.target is getattr]
        return all(found[node] == getattr(found[node.args[0]].meta["val"], node.args[1]) for node in asked)  # type: ignore[index, arg-type] # a node and a name

    def put(self, graph: Graph, root: Node, found: Mapping[Node, Any]) -> None:
        """The op in the place of what matched."""
        old = [found[node] for node in self.results]
        with graph.inserting_before(root):
            new = graph.call_function(self.op, tuple(found[node] for node in self.arguments.values()))
            parts = [graph.call_function(operator.getitem, (new, i)) for i in range(len(old))] if old[1:] else [new]
        for part, node in zip(parts, old, strict=True):
            part.meta = {**root.meta, "val": node.meta["val"]}
            node.replace_all_uses_with(part)
        if old[1:]:
            new.meta = {**root.meta, "val": tuple(node.meta["val"] for node in old)}
        for node in reversed(self.computed()):
            graph.erase_node(found[node])


def recognise(graph: Graph) -> None:
    """Put quantised ops in the place of the arithmetic that they are; the graph, changed in place, computes the same.

    Args:
        graph: canonical, with values in its metadata.
    """
    for pattern in _patterns():
        for node in list(graph.nodes):
            found = pattern.match(node) if node.target is pattern.results[0].target else None
            if found is not None:
                pattern.put(graph, node, found)


@cache
def _patterns() -> tuple[Pattern, ...]:
    """The largest first, as it may contain others."""
    return tuple(sorted(map(Pattern.of, MEANING), key=lambda pattern: -len(pattern.nodes)))


def _same(pattern: Any, value: Any, found: dict[Node, Any]) -> bool:
    """Is a value what a pattern says? Notes what stands for its nodes."""
    if isinstance(pattern, (list, tuple)):
        parts = isinstance(value, (list, tuple)) and len(value) == len(pattern)
        return parts and all(_same(a, b, found) for a, b in zip(pattern, value, strict=True))
    if not isinstance(pattern, Node):
        return not isinstance(value, Node) and bool(pattern == value)
    if pattern in found:
        return found[pattern] is value
    found[pattern] = value
    if pattern.op == "placeholder" or pattern.target is getattr:
        return True
    return isinstance(value, Node) and value.target is pattern.target and _same(_all(pattern), _all(value), found)


def _all(node: Node) -> list[Any]:
    """All arguments by the op's schema, those left out too."""
    assert isinstance(node.target, torch._ops.OpOverload)
    known = node.target._schema.arguments
    given = dict(zip((a.name for a in known), node.args, strict=False)) | dict(node.kwargs)
    return [given.get(a.name, a.default_value) for a in known]
