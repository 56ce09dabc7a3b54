"""Absorbing: a constant vector that is added to a value becomes part of a tensor that is added there anyway."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch.fx import Graph, Node
from torch.nn import Parameter

from graphc.ir.edit import rebuild
from graphc.ir.graph import attribute
from graphc.ir.program import Program

aten = torch.ops.aten
ADD = aten.add.Tensor

LOOKUPS = {
    aten.embedding.default: 0,
    aten.index_select.default: 0,
    aten.layer_norm.default: 3,
    aten.linear.default: 2,
}
"""Ops whose result has, in each last dim, a row of a tensor of the program as a summand; and which argument that is."""


def absorb(program: Program, constants: Collection[str]) -> Program:
    """Add constants to tables (of words, of positions) or biases, wherever a sum has both.

    Of several the one with the fewest entries takes the constant: the table of positions, in BERT. A tensor that is
    read elsewhere or has other names takes none; a constant that finds no place is still added.

    Args:
        program: is left as it is.
        constants: their names; those that are no vectors, of size 1 but in the last dim, are left alone.
    """
    for name in constants:
        while (found := _place(program, name)) is not None:
            program = _absorbed(program, name, *found)
    return program


def _place(program: Program, name: str) -> tuple[Node, str] | None:
    """A sum with the constant, and the tensor that takes it; None if there is none."""
    node = next((n for n in program.graph.nodes if n.op == "get_attr" and n.target == name), None)
    value = attribute(program.module, name) if node is not None else None
    if node is None or value is None or not value.is_floating_point() or value.numel() != value.shape[-1]:
        return None
    for user in node.users:
        if _is_sum(user) and user.args != (node, node):
            terms = [term for term in _terms(_whole(user)) if term is not node]
            fitting = [t for term in terms for t in _tensors(program, term) if _takes(program, t, value)]
            if fitting and _other(user, node).meta["val"].shape == user.meta["val"].shape:
                return user, min(fitting, key=lambda t: attribute(program.module, t).numel())
    return None


def _absorbed(program: Program, name: str, at: Node, tensor: str) -> Program:
    old = attribute(program.module, tensor)
    new = Parameter((old + attribute(program.module, name).flatten()).detach(), old.requires_grad)

    def edit(graph: Graph) -> None:
        node = next(n for n in graph.nodes if n.name == at.name)
        constant = next(n for n in node.all_input_nodes if n.op == "get_attr" and n.target == name)
        node.replace_all_uses_with(_other(node, constant))

    return rebuild(program, edit, tensors={tensor: new})


def _is_sum(node: Node) -> bool:
    """Is it a plain sum of two tensors?"""
    return node.target is ADD and not node.kwargs and all(isinstance(a, Node) for a in node.args)


def _other(node: Node, constant: Node) -> Node:
    first, second = node.all_input_nodes
    return second if first is constant else first


def _whole(node: Node) -> Node:
    """The sum that a sum is only a part of."""
    while len(node.users) == 1 and _is_sum(user := next(iter(node.users))):
        node = user
    return node


def _terms(node: Node) -> Iterator[Node]:
    """What a sum is of, through sums that nothing else reads."""
    for term in node.all_input_nodes:
        if _is_sum(term) and len(term.users) == 1:
            yield from _terms(term)
        else:
            yield term


def _tensors(program: Program, term: Node) -> Iterator[str]:
    """The tensor of which every last dim of a term has a row as a summand, if nothing else reads the term or it."""
    place = LOOKUPS.get(term.target)  # type: ignore[call-overload] # any target may be asked for
    source = term
    if place is not None:
        source = term.args[place] if len(term.args) > place else None  # type: ignore[assignment]
    if isinstance(source, Node) and source.op == "get_attr" and len(source.users) == len(term.users) == 1:
        yield str(source.target)


def _takes(program: Program, name: str, constant: torch.Tensor) -> bool:
    """May a tensor be changed by itself, and are its rows such vectors?"""
    value = attribute(program.module, name)
    own = name not in program.aliases.values() and isinstance(value, Parameter)
    return own and value.dtype == constant.dtype and bool(value.dim()) and value.shape[-1] == constant.numel()
