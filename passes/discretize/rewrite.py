"""Rewriting: in the place of every mixture the sum of what was chosen, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.fx import Graph, Node

from graphc.errors import GraphError
from graphc.ir.edit import rebuild
from graphc.ir.graph import module_path
from graphc.ir.program import Program

from .candidates import is_zero
from .choice import Choice
from .space import Space

aten = torch.ops.aten


def discretized(program: Program, space: Space, choices: Sequence[Choice]) -> Program:
    """The program with the chosen candidates alone, each of weight 1.

    Raises:
        GraphError: what was chosen does not sum to the shape of the mixture, or weights still count.
    """
    sums = _sums(choices)
    order = [(node.name, [term.name for term in sums[node]]) for node in program.graph.nodes if node in sums]

    def edit(graph: Graph) -> None:
        now = {node.name: node for node in graph.nodes}
        for root, terms in order:
            old = now[root]
            now[root] = _add(graph, old, [now[term] for term in terms])
            old.replace_all_uses_with(now[root])

    result = rebuild(program, edit)
    _check_gone(result, space)
    return result


def _sums(choices: Sequence[Choice]) -> Mapping[Node, Sequence[Node]]:
    """What each value that goes is to be the sum of."""
    sums: dict[Node, Sequence[Node]] = {}
    for choice in choices:
        terms = list(choice.mixture.plain)
        for pick in choice.picks:
            edge = pick.edge
            if pick.value is not None and edge.root is not None and edge.holder is not None:
                sums[edge.root] = [pick.value]
                terms.append(edge.holder)
            elif pick.value is not None:
                terms.append(pick.value)
        sums[choice.mixture.root] = _counting(choice, terms)
    return sums


def _counting(choice: Choice, terms: Sequence[Node]) -> Sequence[Node]:
    """The terms that are not zero, or one zero if all are.

    Raises:
        GraphError: together they do not have the shape of the mixture.
    """
    root = choice.mixture.root
    whole = [term for term in terms if _shape(term) == _shape(root)]
    kept = [term for term in terms if not is_zero(term)]
    kept = kept if any(term in whole for term in kept) else [*kept, *whole[:1]]
    if not any(term in whole for term in kept):
        chosen = ", ".join(f"{pick.name} from state {pick.state}" for pick in choice.picks)
        shapes = ", ".join(f"{term.name} is {_shape(term)}" for term in terms) or "none of them is computed"
        raise GraphError(
            f"what was chosen for {root.name} does not sum to its shape",
            where=module_path(root) or root.name,
            why=f"it is {_shape(root)}; chosen are {chosen}: {shapes}",
            hint="exclude a candidate that was chosen here, or keep more edges",
        )
    return kept


def _shape(node: Node) -> str:
    return str(list(node.meta["val"].shape))


def _add(graph: Graph, old: Node, terms: Sequence[Node]) -> Node:
    """The sum of some values in the place of another."""
    total, *others = terms
    for term in others:
        with graph.inserting_before(old):
            total = graph.call_function(aten.add.Tensor, (total, term))
        total.meta = dict(old.meta)
    return total


def _check_gone(result: Program, space: Space) -> None:
    """No weight of a candidate counts any more.

    Raises:
        GraphError: one does: it is used in a way that is no mixture.
    """
    rows, known = set(space.rows()), {node.name: node for node in space.weights.numbers}
    for node in result.graph.nodes:
        users = [user for user in node.users if user.name not in known]
        if node.name not in known or not users or not space.weights.weigh(known[node.name]):
            continue
        if rows & {entry.row for entries in space.weights.of(known[node.name]) for entry in entries}:
            raise GraphError(
                "weights of candidates count outside of the mixtures",
                where=", ".join(f"{user.name} ({user.target}) in {module_path(user) or 'the model'}" for user in users),
                why="only sums of candidates that are each multiplied by their weight can be discretised",
                hint="write the mixture as a weighted sum, and leave penalties on the weights out of the model",
            )
