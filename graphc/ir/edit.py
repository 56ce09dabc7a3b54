"""Editing a Program: always a copy of the graph, and one place that makes the new Program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.errors import GraphError, nearest
from graphc.ir.program import Program, assemble, attribute, copy_graph
from graphc.ir.shapes import refresh

aten = torch.ops.aten
TRAINING_FLAG = {aten.batch_norm.default: 5, aten.dropout.default: 2, aten.feature_dropout.default: 2}


def rebuild(
    program: Program,
    edit: Callable[[Graph], None] | None = None,
    *,
    tensors: Mapping[str, torch.Tensor] | None = None,
    note: str | None = None,
) -> Program:
    """A new Program: the graph after ``edit``, with some tensors replaced.

    Dead nodes go, shapes are computed again, and the graph is linted.

    Args:
        edit: changes the copy of the graph that it is given.
        tensors: new values by name.
        note: what to add to the history.
    """
    graph = copy_graph(program.graph)
    if edit is not None:
        edit(graph)
    graph.eliminate_dead_code()
    graph.lint()
    return replace(program, graph, tensors or {}, note)


def replace(program: Program, graph: Graph, tensors: Mapping[str, Any], note: str | None = None) -> Program:
    """A new Program with this graph; tensors not given are the old program's own."""
    values: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            values[name] = tensors[name] if name in tensors else attribute(program.module, name)
    module = assemble(graph, values)
    refresh(module)
    aliases = {alias: name for alias, name in program.aliases.items() if name in values}
    history = (*program.history, note) if note else program.history
    return Program(module, program.contract, aliases, history)


def find(graph: Graph, name: str) -> Node:
    """The node of this name.

    Raises:
        GraphError: there is none; names the nearest ones.
    """
    nodes = {node.name: node for node in graph.nodes}
    if name not in nodes:
        raise GraphError(f"no node is called {name!r}", hint=nearest(name, nodes))
    return nodes[name]


def redirect(program: Program, changes: Mapping[str, str], note: str | None = None) -> Program:
    """Replace all uses of some values by others, and drop what no longer counts.

    Args:
        changes: names of nodes, and the names of the nodes whose values take their place.

    Raises:
        GraphError: a node is not known, the values differ in shape or dtype, or a value would come
            after its use.
    """

    def edit(graph: Graph) -> None:
        order = {node: i for i, node in enumerate(graph.nodes)}
        for old, new in ((find(graph, a), find(graph, b)) for a, b in changes.items()):
            _check_redirect(old, new, order)
            old.replace_all_uses_with(new)

    return rebuild(program, edit, note=note)


def _check_redirect(old: Node, new: Node, order: Mapping[Node, int]) -> None:
    before, after = old.meta.get("val"), new.meta.get("val")
    what = f"cannot put {new.name} in the place of {old.name}"
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        if [str(s) for s in before.shape] != [str(s) for s in after.shape] or before.dtype != after.dtype:
            raise GraphError(
                what,
                why=f"{old.name} is {before.dtype}{list(before.shape)}, {new.name} is {after.dtype}{list(after.shape)}",
                hint="redirect only between values of the same shape and dtype",
            )
    elif type(before) is not type(after):
        raise GraphError(what, why="one is a tensor and the other is not")
    if order[new] > order[old]:
        raise GraphError(what, why=f"{new.name} is computed after {old.name}")


def set_training(program: Program, mode: bool) -> Program:
    """Switch every batch_norm and dropout between training and evaluation."""

    def edit(graph: Graph) -> None:
        for node in graph.nodes:
            index = TRAINING_FLAG.get(node.target)
            if index is not None:
                node.update_arg(index, mode)

    switched = rebuild(program, edit)
    switched.module.training = mode
    return switched


def fold_constants(program: Program, note: str | None = None) -> Program:
    """Compute once what depends on parameters and constants alone, and keep the results as buffers.

    Random ops and views of a single parameter that cost nothing are left in place.
    """
    constant: set[Node] = set()
    for node in program.graph.nodes:
        inputs = node.all_input_nodes
        pure = node.op == "call_function" and not node.is_impure() and not _random(node)
        if node.op == "get_attr" or (pure and inputs and all(n in constant for n in inputs)):
            constant.add(node)
    roots = [n for n in constant if n.op != "get_attr" and any(u not in constant for u in n.users)]
    values = _evaluate(program, constant)
    folded = {n.name: f"folded_{n.name}" for n in roots if isinstance(values[n], torch.Tensor)}
    if not folded:
        return program
    tensors = {folded[n.name]: values[n].detach().contiguous() for n in roots if n.name in folded}

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.name in folded:
                with graph.inserting_before(node):
                    new = graph.create_node("get_attr", folded[node.name], name=folded[node.name])
                new.meta = dict(node.meta)
                node.replace_all_uses_with(new)

    return rebuild(program, edit, tensors=tensors, note=note)


def _random(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _evaluate(program: Program, nodes: set[Node]) -> dict[Node, Any]:
    values: dict[Node, Any] = {}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node not in nodes:
                continue
            if node.op == "get_attr":
                values[node] = attribute(program.module, str(node.target))
            else:
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    return values
