"""Ties: several names of one tensor. Names are tied into one, and taken out of a tie again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import torch
from torch.fx import Graph, Node

from graphc.errors import GraphError, nearest
from graphc.ir.edit import rebuild
from graphc.ir.graph import attribute, module_path
from graphc.ir.program import Program


def resolve(program: Program, name: str) -> str:
    """The name that the program uses for a tensor, whichever of its names is given.

    Raises:
        GraphError: the program has no such tensor; names the nearest.
    """
    known = program.tensors()
    found = program.aliases.get(name, name)
    if found not in known:
        raise GraphError(f"no tensor is called {name!r}", hint=nearest(name, [*known, *program.aliases]))
    return found


def tie(
    program: Program,
    ties: Mapping[str, str],
    turned: Collection[str] = (),
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Program:
    """Let tensors be others: whatever reads one reads the other one instead, and its name is one more of that.

    Args:
        program: stays as it is.
        ties: for each tensor the one that it becomes, by the names that the program uses; no chains.
        turned: those that become the transposed of the other one; as such they are no second name of it.
        tensors: new values by name, of those that stay.
    """

    def edit(graph: Graph) -> None:
        order: dict[Node, float] = {node: i for i, node in enumerate(graph.nodes)}
        places = {str(node.target): node for node in graph.nodes if node.op == "get_attr"}
        for name, kept in ties.items():
            old, new = places[name], places[kept]
            if order[old] < order[new]:
                old.prepend(new)
                order[new] = order[old] - 0.5
            old.replace_all_uses_with(_transposed(graph, new) if name in turned else new)

    made = rebuild(program, edit, tensors=tensors)
    names = {**program.aliases, **{name: kept for name, kept in ties.items() if name not in turned}}
    aliases = {alias: ties.get(name, name) for alias, name in names.items() if name not in turned}
    return dataclasses.replace(made, aliases=aliases)


def _transposed(graph: Graph, node: Node) -> Node:
    with graph.inserting_after(node):
        return graph.call_function(torch.ops.aten.transpose.int, (node, 0, 1))


def untie(program: Program, name: str) -> Program:
    """Give one name of a tied tensor a tensor of its own, with the same values.

    It is read by what the module of that name does; all other uses keep the tied one.

    Args:
        program: stays as it is.
        name: one of several names of a tensor: ``lm_head.weight``.

    Raises:
        GraphError: there is no such name, it is not tied, or its module makes no use of it or all uses.
    """
    kept = resolve(program, name)
    others = [
        other for other in (kept, *program.aliases) if other != name and program.aliases.get(other, other) == kept
    ]
    what = f"cannot untie {name!r}"
    if not others:
        raise GraphError(what, why="it is the only name of its tensor")
    path = name.rpartition(".")[0]
    node = next(node for node in program.graph.nodes if node.op == "get_attr" and node.target == kept)
    own = [user.name for user in node.users if module_path(user) == path]
    if not own or len(own) == len(node.users):
        why = f"{len(own)} of the {len(node.users)} ops that read it are in the module {path!r}"
        raise GraphError(what, where=kept, why=why, hint=f"its other names: {', '.join(others)}")
    value = attribute(program.module, kept)
    copied: torch.Tensor = value.detach().clone()
    copied = torch.nn.Parameter(copied, value.requires_grad) if isinstance(value, torch.nn.Parameter) else copied
    rest = others[0] if name == kept else kept

    def edit(graph: Graph) -> None:
        nodes = {other.name: other for other in graph.nodes}
        shared = nodes[node.name]
        with graph.inserting_after(shared):
            mine = graph.create_node("get_attr", name)
        shared.target = rest
        for user in own:
            nodes[user].replace_input_with(shared, mine)

    made = rebuild(program, edit, tensors={name: copied, rest: value})
    aliases = {
        alias: rest if target == kept else target
        for alias, target in program.aliases.items()
        if alias not in (name, rest)
    }
    return dataclasses.replace(made, aliases=aliases)
