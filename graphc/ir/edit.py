"""Editing a Program: always a copy of the graph, and one place that makes the new Program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.errors import GraphError, nearest
from graphc.ir.functional import source_of
from graphc.ir.graph import assemble, attribute, copy_graph, drop_dead
from graphc.ir.program import Program
from graphc.ir.resizing import Resizing
from graphc.ir.shapes import Shapes, refresh
from graphc.ir.verify import lint

aten = torch.ops.aten
TRAINING_FLAG = {
    aten.batch_norm.default: 5,
    aten.instance_norm.default: 5,
    aten.dropout.default: 2,
    aten.feature_dropout.default: 2,
    aten.alpha_dropout.default: 2,
    aten.feature_alpha_dropout.default: 2,
    aten.rrelu.default: 3,
}
"""Ops that behave differently in training, and the position of the argument that says so."""

STATISTICS = {aten.batch_norm.default: (3, 4), aten.instance_norm.default: (3, 4)}
"""Ops that write into their running statistics in training, and where those stand."""


def rebuild(
    program: Program,
    edit: Callable[[Graph], None] | None = None,
    *,
    tensors: Mapping[str, torch.Tensor] | None = None,
    note: str | None = None,
    way: type[Shapes] = Shapes,
) -> Program:
    """A new Program: the graph after ``edit``, with some tensors replaced.

    Dead nodes go, shapes are computed again, and the graph is linted.

    Args:
        edit: changes the copy of the graph that it is given.
        tensors: new values by name.
        note: what to add to the history.
        way: how shapes are computed.

    Raises:
        VerifyError: the graph is malformed after the edit, or its shapes do not fit together.
    """
    graph = copy_graph(program.graph)
    if edit is not None:
        edit(graph)
    lint(graph)
    drop_dead(graph)
    return replace(program, graph, tensors or {}, note, way)


def replace(
    program: Program,
    graph: Graph,
    tensors: Mapping[str, Any],
    note: str | None = None,
    way: type[Shapes] = Shapes,
) -> Program:
    """A new Program with this graph; tensors not given are the old program's own.

    Args:
        program: what it was made from.
        graph: has the values of its nodes' old places.
        tensors: new values by name.
        note: what to add to the history.
        way: how shapes are computed.
    """
    values: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            values[name] = tensors[name] if name in tensors else attribute(program.module, name)
    module = assemble(graph, values)
    module.train(program.module.training)
    refresh(module, way)
    aliases = {alias: name for alias, name in program.aliases.items() if name in values}
    history = (*program.history, note) if note else program.history
    return Program(module, program.contract, aliases, history, program.unused)


def find(graph: Graph, name: str) -> Node:
    """The node of this name.

    Raises:
        GraphError: there is none; names the nearest ones.
    """
    nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
    if name not in nodes:
        raise GraphError(f"no node is called {name!r}", hint=nearest(name, nodes))
    return nodes[name]


def redirect(program: Program, changes: Mapping[str, str], note: str | None = None) -> Program:
    """Replace all uses of some values by others, and drop what no longer counts.

    All changes happen at once, so their order does not matter: with ``{c: b, b: a}`` both c and b
    give way to a.

    Args:
        changes: names of nodes, and the names of the nodes whose values take their place.

    Raises:
        GraphError: a node is not known, the values differ in shape or dtype, a value would come
            after its use, or the changes go round in a circle.
    """
    final = {old: _follow(old, changes) for old in changes}

    def edit(graph: Graph) -> None:
        order = {node: i for i, node in enumerate(graph.nodes)}
        pairs = [(find(graph, old), find(graph, new)) for old, new in final.items()]
        for old, new in pairs:
            _check_redirect(old, new, order)
        for old, new in pairs:
            old.replace_all_uses_with(new)

    # Where the new values also lie in memory as the old ones did, every value that is left is what it was.
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    alike = all(_strides(values.get(old)) == _strides(values.get(new)) for old, new in final.items())
    return rebuild(program, edit, note=note, way=Resizing if alike else Shapes)


def _strides(value: Any) -> list[str]:
    return [str(step) for step in value.stride()] if isinstance(value, torch.Tensor) else []


def _follow(old: str, changes: Mapping[str, str]) -> str:
    """Where a chain of redirects that starts here ends."""
    seen = [old]
    while seen[-1] in changes:
        seen.append(changes[seen[-1]])
        if seen[-1] in seen[:-1]:
            why = f"the changes go round in a circle: {' -> '.join(seen)}"
            raise GraphError(f"cannot redirect {old}", why=why)
    return seen[-1]


def _check_redirect(old: Node, new: Node, order: Mapping[Node, int]) -> None:
    what = f"cannot put {new.name} in the place of {old.name}"
    if "output" in (old.op, new.op):
        raise GraphError(what, why="the output of the program is not a value")
    before, after = _kind(old.meta.get("val")), _kind(new.meta.get("val"))
    if before != after:
        raise GraphError(
            what,
            why=f"{old.name} is {before}, {new.name} is {after}",
            hint="redirect only between values of the same shape and dtype",
        )
    if order[new] > order[old]:
        raise GraphError(what, why=f"{new.name} is computed after {old.name}")


def _kind(value: Any) -> str:
    """Type, dtype and shape of a value as text."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_kind, value))})"
    return type(value).__name__


def set_training(program: Program, mode: bool) -> Program:
    """Switch every batch_norm and dropout between training and evaluation.

    A program in training mode has running statistics of its own, because running it writes into
    them; its parameters are still those of ``program``. Attention dropout stays as captured (off).
    """
    written: dict[str, torch.Tensor] = {}
    graph = copy_graph(program.graph)
    for node in graph.nodes:
        index = TRAINING_FLAG.get(node.target)
        statistics = [node.args[i] for i in STATISTICS.get(node.target, ())]
        if index is None or None in statistics:  # a norm that has no statistics always takes those of its data
            continue
        node.update_arg(index, mode)
        for buffer in statistics:
            if mode and isinstance(buffer, Node) and buffer.op == "get_attr":
                name = str(buffer.target)
                written[name] = attribute(program.module, name).clone()
    switched = replace(program, graph, written)
    switched.module.train(mode)
    return switched


def constants(graph: Graph) -> set[Node]:
    """The nodes that depend on parameters, buffers and constants alone; no random op is among them."""
    found: set[Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        pure = node.op == "call_function" and not node.is_impure() and not _random(node)
        if node.op == "get_attr" or (pure and inputs and all(n in found for n in inputs)):
            found.add(node)
    return found


def evaluate(program: Program, nodes: Collection[Node]) -> dict[Node, Any]:
    """The values of constant nodes, and of what they are computed from, without gradients."""
    needed, left = set(nodes), list(nodes)
    while left:
        new = set(left.pop().all_input_nodes) - needed
        needed |= new
        left += new
    return _evaluate(program, needed)


def fold_constants(program: Program, note: str | None = None) -> Program:
    """Compute once what depends on parameters and constants alone, and keep the results as buffers.

    Random ops and views of a single parameter that cost nothing are left in place.
    """
    constant = constants(program.graph)
    roots = [n for n in constant if not _free(n) and any(u not in constant for u in n.users)]
    if not roots:
        return program
    values = evaluate(program, constant)
    taken = program.tensors()
    folded = {n.name: unused_name(f"folded_{n.name}", taken) for n in roots if isinstance(values[n], torch.Tensor)}
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


def _free(node: Node) -> bool:
    """A tensor of the program, or a view of one."""
    while node.op != "get_attr":
        source = source_of(node)
        if source is None:
            return False
        node = source
    return True


def unused_name(name: str, taken: Collection[str]) -> str:
    """A name like this one that is not taken."""
    return name if name not in taken else next(n for i in itertools.count(2) if (n := f"{name}_{i}") not in taken)


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
