"""Taps: the value of a program that a name speaks of, by module path, axis or node."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch.fx import Graph, Node

from graphc.coupling import Analysis
from graphc.coupling.flow import analyze
from graphc.errors import RecipeError, nearest
from graphc.ir.graph import attribute, module_kinds
from graphc.ir.program import Program

from ..importance.reading import readings

Regions = Mapping[str, Sequence[Node]]
"""Nodes that were made in the call of a module, in graph order, by module path."""


def find_tap(program: Program, name: str, analysis: Analysis | None = None) -> Node:
    """The value that a name speaks of; searched in this order.

    - A module path: the value that leaves the module, as a forward hook would see it. Of several
      the last that is computed (of a module that is called several times, that of its last call),
      of a tuple its first tensor. Where some are computed from inputs by parameters, masks and
      tables of positions do not count.
    - An axis: the value where its units are read first, after any activation function and norm.
    - A node of the graph.

    Args:
        analysis: of the program, if there is one already.

    Raises:
        RecipeError: the name speaks of no value; names the nearest.
    """
    regions = find_regions(program.graph)
    if name in regions:
        return _leaving(program, name, regions[name])
    analysis = analysis or analyze(program)
    for axis in analysis.axes:
        if axis.name == name:
            places = readings(analysis, [axis])
            if not places:
                raise RecipeError(f"the axis {name!r} has no value", why="nothing is summed over it")
            return next(iter(places))
    tensors = [node for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    nodes: dict[str, Node] = {node.name: node for node in tensors}
    if name not in nodes:
        raise RecipeError(
            f"no module, axis or node is called {name!r}",
            why="a module that was removed, or that computes nothing, has no value",
            hint=nearest(name, {*regions, *(axis.name for axis in analysis.axes)} or nodes),
        )
    return nodes[name]


def find_regions(graph: Graph) -> Regions:
    """The nodes of every module of a program, by its path; the root is left out."""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for path in module_kinds(node):
            if path and not path.startswith("_empty_nn_module_stack"):
                found[path].append(node)
    return dict(found)


def find_learned(program: Program) -> set[Node]:
    """Tensors, and tuples of them, that are computed from inputs by parameters: not masks, sizes or tables.

    It takes more than a sum to begin with: a table of parameters plus a mask is a mask.
    """
    inputs, weights, learned = set[Node](), set[Node](), set[Node]()
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "placeholder":
            inputs.add(node)
        elif node.op == "get_attr":
            if isinstance(attribute(program.module, str(node.target)), torch.nn.Parameter):
                weights.add(node)
        elif isinstance(node.meta.get("val"), (torch.Tensor, list, tuple)):
            name = packet(node)
            if name.startswith("new_") or name.endswith("_like"):  # of what they are given they take the shape
                continue
            for found in (inputs, weights, learned):
                if not found.isdisjoint(sources):
                    found.add(node)
            table = any(source in weights and source not in inputs for source in sources)
            if node in inputs and table and name not in _TOGETHER:
                learned.add(node)
    return learned


_TOGETHER = ("add", "sub", "mul", "div", "where", "masked_fill")
"""Ops by which masks meet tables of parameters."""


def packet(node: Node) -> str:
    """The name of an op without its overload; empty for what is none."""
    return node.target.overloadpacket.__name__ if isinstance(node.target, torch._ops.OpOverload) else ""


def find_exits(region: Sequence[Node]) -> list[Node]:
    """The tensors of a region that are used outside, in graph order; of a tuple the first that is."""
    inside = set(region)
    exits: dict[Node, Node] = {}
    for node in region:
        outside = [user for user in node.users if user not in inside]
        if isinstance(node.meta.get("val"), (list, tuple)):
            parts = [user for user in outside if user.target is operator.getitem]
        else:
            parts = [node] if outside else []
        for part in parts:
            whole = part.args[0] if part.target is operator.getitem else part
            if isinstance(part.meta.get("val"), torch.Tensor) and isinstance(whole, Node):
                exits[whole] = min(exits.get(whole, part), part, key=_place)
    return list(exits.values())


def _place(node: Node) -> int:
    """Of what is taken out of a tuple its place there."""
    return int(node.args[1]) if node.target is operator.getitem else 0  # type: ignore[arg-type] # an index


def _leaving(program: Program, path: str, region: Sequence[Node]) -> Node:
    exits = find_exits(region)
    learned = find_learned(program)
    chosen = [node for node in exits if node in learned] or exits
    if not chosen:
        raise RecipeError(f"no tensor leaves the module {path!r}", hint="name a module around it or one within")
    return chosen[-1]
