"""What a diagram of a program shows: the values that one axis runs through, or all of its graph."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

import networkx as nx
import torch
from torch.fx import Node

from graphc.axes.axis import Axis, leaves
from graphc.coupling.flow import Analysis, analyze
from graphc.errors import GraphError, nearest
from graphc.ir.graph import module_path
from graphc.ir.program import Program
from graphc.ir.text import operator_name
from graphc.page.diagram import Box, Diagram

WORDS, LETTERS = 5, 30
"""Names of ops in one box, of more the first and the last; letters in a line."""


def axis_diagram(program: Program, name: str) -> Diagram:
    """The ops that an axis runs through.

    Raises:
        GraphError: no axis has this name.
    """
    analysis = analyze(program)
    axis = next((axis for axis in analysis.axes if axis.name == name), None)
    if axis is None:
        hint = nearest(name, [a.name for a in analysis.axes])
        raise GraphError(f"no axis is called {name!r}", where="--axis", hint=hint)
    return diagram_of(analysis, axis)


def diagram_of(analysis: Analysis, axis: Axis) -> Diagram:
    """The ops that an axis runs through: which read tensors that have it, which hand it on, where it ends."""
    dims: dict[str, list[int]] = {}
    for tensor, dim in axis.members:
        dims.setdefault(tensor, []).append(dim)
    carriers = {node for node, value in analysis.values.items() if _has(value, axis)}
    shown = [
        node
        for node in analysis.program.graph.nodes
        if node.op in ("call_function", "placeholder")
        and (node in carriers or not carriers.isdisjoint(node.all_input_nodes))
    ]
    prefix = _common(module_path(node) for node in shown if node.op == "call_function")

    def box(nodes: Sequence[Node]) -> Box:
        read = [str(n.target) for node in nodes for n in node.all_input_nodes if str(n.target) in dims]
        tensors = [f"{t.rpartition('.')[2]} dim {', '.join(map(str, dims[t]))}" for t in dict.fromkeys(read)]
        kind = "cut" if tensors else "passes" if nodes[-1] in carriers else "ends"
        return Box(_ops(nodes), (*_where(nodes, prefix), *tensors), kind)

    def joins(above: Node, below: Node) -> bool:
        return not any(str(n.target) in dims for node in (above, below) for n in node.all_input_nodes) and (
            (above in carriers) == (below in carriers)
        )

    among = carriers.intersection(shown)
    text = f"The axis {axis.name} has {axis.size} units and runs through {len(among)} values"
    pinned = f"; it cannot be cut: {axis.pinned}" if axis.pinned else ""
    inside = f". Names are within {prefix}" if prefix else ""
    edges = [(a, b) for b in shown for a in b.all_input_nodes if a in among]
    return _diagram(f"Coupling of {axis.name}", f"{text}{pinned}{inside}.", shown, edges, box, joins)


def graph_diagram(program: Program) -> Diagram:
    """All values of a program; ops of one module that follow each other are one box."""
    shown = [
        node
        for node in program.graph.nodes
        if node.op in ("call_function", "placeholder") and isinstance(node.meta.get("val"), (torch.Tensor, list, tuple))
    ]
    among = set(shown)

    def box(nodes: Sequence[Node]) -> Box:
        weights = any(n.op == "get_attr" for node in nodes for n in node.all_input_nodes)
        return Box(_ops(nodes), _where(nodes, ""), "cut" if weights else "passes")

    def joins(above: Node, below: Node) -> bool:
        return above.op == below.op and module_path(above) == module_path(below)

    edges = [(a, b) for b in shown for a in b.all_input_nodes if a in among]
    text = f"{len(shown)} values. Filled boxes read weights."
    return _diagram("Graph of the program", text, shown, edges, box, joins)


def _diagram(
    title: str,
    text: str,
    shown: Sequence[Node],
    edges: Sequence[tuple[Node, Node]],
    box: Callable[[Sequence[Node]], Box],
    joins: Callable[[Node, Node], bool],
) -> Diagram:
    """Boxes of stretches: a node joins the only one that it reads, if it is the only one that reads that."""
    graph: nx.DiGraph[Node] = nx.DiGraph()
    graph.add_nodes_from(shown)
    graph.add_edges_from(edges)
    stretches: dict[Node, list[Node]] = {}
    for node in shown:
        above = list(graph.predecessors(node))
        alone = len(above) == 1 and graph.out_degree(above[0]) == 1 and joins(above[0], node)
        stretches[node] = stretches[above[0]] if alone else []
        stretches[node].append(node)
    found = {nodes[0].name: nodes for nodes in stretches.values()}
    pairs = dict.fromkeys((stretches[a][0].name, stretches[b][0].name) for a, b in edges)
    arrows = [pair for pair in pairs if pair[0] != pair[1]]
    return Diagram(title, text, {name: box(nodes) for name, nodes in found.items()}, arrows)


def _has(value: object, axis: Axis) -> bool:
    if isinstance(value, Axis):
        return axis in leaves(value)
    return any(_has(part, axis) for part in value) if isinstance(value, tuple) else False


def _ops(nodes: Sequence[Node]) -> tuple[str, ...]:
    """``view, transpose`` in lines; of inputs their names."""
    names = [node.name if node.op == "placeholder" else _short(node) for node in nodes]
    if len(names) > WORDS:
        names = [*names[: WORDS - 2], f"{len(names) - WORDS + 1} more", names[-1]]
    return tuple(textwrap.wrap(", ".join(names), LETTERS))


def _short(node: Node) -> str:
    """``linear`` of ``aten.linear``, ``add`` of ``aten.add.Tensor``."""
    words = operator_name(node).split(".")
    return words[1] if len(words) > 1 else words[0]


def _where(nodes: Sequence[Node], prefix: str) -> tuple[str, ...]:
    path = "input" if nodes[0].op == "placeholder" else module_path(nodes[0])
    own = path.removeprefix(prefix).lstrip(".") if prefix else path
    return (own,) if own else ()


def _common(paths: Iterable[str]) -> str:
    """The modules that all paths lie in."""
    split = [path.split(".") for path in paths]
    if not split:
        return ""
    count = next((i for i, words in enumerate(zip(*split, strict=False)) if len(set(words)) > 1), min(map(len, split)))
    return ".".join(split[0][:count])
