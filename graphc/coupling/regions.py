"""Layers: regions of the graph that can be stepped over because input and output are alike.

A layer has one value that enters it, one that leaves it, both of the same shape and dtype, and a
residual path between them: the value reaches the exit through ops without multiply-accumulates.
Layers are found by module path (``encoder.layer.4``); where no path names any, by the
single-entry single-exit regions of the graph (values that lie on every path from inputs to outputs).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
import torch
from torch.fx import Node

from graphc.coupling.flow import Analysis
from graphc.ir.graph import attribute, module_kinds, module_path

_NUMBERED = re.compile(r"(^|\D)\d+$")


@dataclass(frozen=True)
class Layer:
    """A region that ``redirect(exit, entry)`` removes.

    Attributes:
        name: the module path, or ``entry..exit`` where no module is the region.
        entry: the value that enters; it takes the place of ``exit``.
        exit: the value that leaves.
        tensors: names of the tensors that only this region reads.
    """

    name: str
    entry: Node
    exit: Node
    tensors: tuple[str, ...]

    @property
    def stack(self) -> str:
        """What it has in common with the layers beside it: an encoder, a stage; one for all that no path names."""
        return "" if ".." in self.name else stack_of(self.name)


def stack_of(path: str) -> str:
    """The path of a numbered module without its number."""
    return _NUMBERED.sub(r"\1", path)


def find_layers(analysis: Analysis) -> list[Layer]:
    """All layers in graph order.

    Of nested ones the innermost are taken if they are of one kind, as the blocks of a stage are, and
    the outer one if they are of several, as the attention and the feed-forward part of a T5 block are.
    """
    dependent = parameter_dependent(analysis)
    costly = {cost.node for cost in analysis.costs}
    layers = _by_path(dependent, costly)
    return layers or _by_region(analysis, dependent, costly)


def parameter_dependent(analysis: Analysis) -> dict[Node, int]:
    """Tensor values that some parameter reaches, with their place in the graph: not masks or sizes."""
    program = analysis.program
    found: dict[Node, int] = {}
    for i, node in enumerate(program.graph.nodes):
        if node.op != "call_function" or not isinstance(node.meta.get("val"), (torch.Tensor, list, tuple)):
            continue
        for source in node.all_input_nodes:
            weight = source.op == "get_attr" and isinstance(
                attribute(program.module, str(source.target)), torch.nn.Parameter
            )
            if weight or source in found:
                found[node] = i
                break
    return found


def _by_path(dependent: dict[Node, int], costly: set[Node]) -> list[Layer]:
    groups: dict[str, list[Node]] = defaultdict(list)
    kinds: dict[str, Any] = {}
    for node in dependent:
        kinds.update(module_kinds(node))
        parts = module_path(node).split(".")
        for i, part in enumerate(parts):
            if _NUMBERED.search(part):
                groups[".".join(parts[: i + 1])].append(node)
    layers: dict[str, Layer] = {}
    for path, nodes in groups.items():
        layer = _layer(path, nodes, dependent, costly)
        if layer is not None:
            layers[path] = layer
    chosen = _of_nested(layers, kinds)
    return sorted(chosen, key=lambda layer: dependent[layer.exit])


def _of_nested(layers: Mapping[str, Layer], kinds: Mapping[str, Any]) -> list[Layer]:
    """The outer layer where the layers within are of several kinds, else those."""
    taken: dict[str, Layer] = {}
    for path in sorted(layers, key=lambda path: path.count("."), reverse=True):
        within = [inner for inner in taken if inner.startswith(f"{path}.")]
        if len({kinds.get(inner) for inner in within}) == 1:
            continue
        for inner in within:
            del taken[inner]
        taken[path] = layers[path]
    whole = {stack_of(path) for path in taken if any(path != p and p.startswith(f"{path}.") for p in layers)}
    return [layer for path, layer in taken.items() if stack_of(path) in whole or not _within(path, whole)]


def _within(path: str, stacks: set[str]) -> bool:
    """Is a layer a part of one that stands beside whole layers, but cannot be removed as they can?"""
    parts = path.split(".")
    return any(stack_of(".".join(parts[:i])) in stacks for i in range(1, len(parts)))


def _layer(name: str, nodes: Iterable[Node], dependent: dict[Node, int], costly: set[Node]) -> Layer | None:
    region = set(nodes)
    exits = [n for n in region if any(user not in region for user in n.users)]
    if len(exits) != 1 or region.isdisjoint(costly) or not isinstance(exits[0].meta["val"], torch.Tensor):
        return None
    entries = [n for node in sorted(region, key=dependent.__getitem__) for n in node.all_input_nodes]
    entry = next((n for n in entries if n not in region and alike(n, exits[0])), None)
    if entry is None or not _residual(entry, exits[0], region - costly):
        return None
    return Layer(name, entry, exits[0], own_tensors(region))


def obstacle(analysis: Analysis, path: str) -> str | None:
    """Why the module of a path is no layer that can be stepped over; None if there is no such module."""
    dependent = parameter_dependent(analysis)
    region = {n for n in dependent if f"{module_path(n)}.".startswith(f"{path}.")}
    if not region:
        return None
    exits = [n for n in region if any(user not in region for user in n.users)]
    if len(exits) != 1:
        return f"{len(exits)} of its values are used outside: {', '.join(sorted(n.name for n in exits)[:3])}"
    entries = {n for node in region for n in node.all_input_nodes if n not in region and n in dependent}
    given = ", ".join(sorted({_shape(n) for n in entries})) or "inputs of the program"
    if not any(alike(n, exits[0]) for n in entries):
        return f"it takes {given} and gives {_shape(exits[0])}"
    return f"no residual path leads around it from {given} to {_shape(exits[0])}"


def _shape(node: Node) -> str:
    value = node.meta.get("val")
    return f"[{', '.join(map(str, value.shape))}]" if isinstance(value, torch.Tensor) else "several values"


def alike(a: Node, b: Node) -> bool:
    """Could one value take the place of another: are dtype and shape the same?"""
    left, right = a.meta.get("val"), b.meta.get("val")
    return (
        a.op in ("call_function", "placeholder")
        and isinstance(left, torch.Tensor)
        and isinstance(right, torch.Tensor)
        and left.dtype == right.dtype
        and [str(s) for s in left.shape] == [str(s) for s in right.shape]
    )


def _as_large(a: Node, b: Node) -> bool:
    left, right = a.meta.get("val"), b.meta.get("val")
    return (
        isinstance(left, torch.Tensor)
        and isinstance(right, torch.Tensor)
        and left.dtype == right.dtype
        and str(left.numel()) == str(right.numel())
    )


def _residual(start: Node, end: Node, through: set[Node]) -> bool:
    """Is there a path from start to end on which every value has as many entries and one is a sum?

    Values may be laid out anew on the way: tokens of a batch in one row, channels last.
    """
    stack = [(start, False)]
    seen = set(stack)
    while stack:
        node, summed = stack.pop()
        for user in node.users:
            step = (user, summed or user.target is torch.ops.aten.add.Tensor)
            if user is end and user in through and step[1]:
                return True
            if user in through and step not in seen and _as_large(user, end):
                seen.add(step)
                stack.append(step)
    return False


def own_tensors(region: set[Node]) -> tuple[str, ...]:
    """Names of the tensors that only a region reads."""
    weights = {n for node in region for n in node.all_input_nodes if n.op == "get_attr"}
    return tuple(sorted(str(w.target) for w in weights if all(user in region for user in w.users)))


def _by_region(analysis: Analysis, dependent: dict[Node, int], costly: set[Node]) -> list[Layer]:
    """Consecutive values on every path through the graph, as far apart as a residual block is."""
    graph: nx.DiGraph[Node | str] = nx.DiGraph()
    for node in dependent:
        sources = [n for n in node.all_input_nodes if n in dependent]
        graph.add_edges_from((source, node) for source in sources)
        if not sources:
            graph.add_edge("start", node)
    for node in analysis.program.graph.output_node().all_input_nodes:
        graph.add_edge(node, "end")
    if "start" not in graph or "end" not in graph:
        return []
    parents = nx.immediate_dominators(graph, "start")
    chain: list[Node] = []
    at = parents["end"]
    while at != "start":
        chain.append(at)
        at = parents[at]
    chain.reverse()
    spans = {(a, b): {n for n in dependent if dependent[a] < dependent[n] <= dependent[b]} for a, b in pairwise(chain)}
    layers: list[Layer] = []
    for (entry, leave), region in spans.items():
        if not region.isdisjoint(costly) and alike(entry, leave) and _residual(entry, leave, region - costly):
            name = f"{entry.name}..{leave.name}"
            layers.append(Layer(name, entry, leave, own_tensors(region)))
    return layers
