"""Weights that can be products: of linear layers, convolutions and embeddings, with every op that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from graphc.errors import GraphError, RecipeError
from graphc.ir.graph import module_path
from graphc.ir.program import Program

from ..affine import Affine, affine
from ..select import choose, matches

aten = torch.ops.aten
EMBEDDING = aten.embedding.default


@dataclass(frozen=True)
class Use:
    """An op that reads a weight.

    Attributes:
        node: the op.
        layer: what it is, if it is a layer; None for an embedding.
    """

    node: Node
    layer: Affine | None

    @property
    def contracted(self) -> int:
        """The dim of the parameter that is summed over; an embedding sums over its rows, all but one times zero."""
        if self.layer is None:
            return 0
        return self.layer.order[self.layer.form.columns - 1]


@dataclass(frozen=True)
class Weight:
    """A parameter that may become a product.

    Attributes:
        name: of the parameter.
        shape: its sizes.
        uses: every op that reads it; an embedding comes first.
        names: by which recipes speak of it: its own, its second ones, and those of the modules that read it.
        why: why it cannot be one; empty if it can.
    """

    name: str
    shape: tuple[int, ...]
    uses: tuple[Use, ...]
    names: tuple[str, ...]
    why: str = ""

    @property
    def kernel(self) -> bool:
        """Is it that of a convolution with more than one place?"""
        return any(size > 1 for size in self.shape[2:])

    @property
    def dims(self) -> tuple[int, int]:
        """The dims that make units of the result, and that take units of the data."""
        taken = self.uses[0].contracted
        return (0, 1) if taken == 1 else (1, 0)


def find_weights(program: Program) -> list[Weight]:
    """Every parameter with at least two dims, in graph order."""
    found: list[Weight] = []
    parameters = program.tensors()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "get_attr" or not isinstance(parameters.get(str(node.target)), torch.nn.Parameter):
            continue
        if value.dim() < 2:
            continue
        uses, why = _uses(program, node)
        name = str(node.target)
        names = [name, *(a for a, kept in program.aliases.items() if kept == name)]
        names += [path for use in uses if (path := module_path(use.node))]
        uses.sort(key=lambda use: use.layer is not None)
        found.append(Weight(name, tuple(map(int, value.shape)), tuple(uses), tuple(dict.fromkeys(names)), why))
    return found


def _uses(program: Program, node: Node) -> tuple[list[Use], str]:
    """Every op that reads a parameter, and why it cannot be a product."""
    uses: list[Use] = []
    if not node.meta["val"].is_floating_point():
        return uses, f"it is quantised to {node.meta['val'].dtype}"
    pending = [(node, user) for user in node.users]
    while pending:
        operand, user = pending.pop(0)
        if user.target is aten.transpose.int:
            pending += [(user, other) for other in user.users]
            continue
        use = _use(program, operand, user)
        if isinstance(use, str):
            return uses, use
        uses.append(use)
    if min(node.meta["val"].shape[:2]) < 2:
        return uses, "it has one row or one column"
    return uses, "" if uses else "nothing reads it"


def _use(program: Program, operand: Node, user: Node) -> Use | str:
    where = f"{user.name} ({user.target})"
    if user.target is EMBEDDING and user.args[0] is operand and operand.op == "get_attr":
        return Use(user, None)
    layer = affine(program, user)
    if layer is None or layer.operand is not operand or list(user.all_input_nodes).count(operand) != 1:
        return f"{where} reads it, which is no linear layer, convolution or embedding"
    if layer.groups != 1:
        return f"{where} is a convolution in groups"
    if layer.form.groups is not None and layer.form.rows == 2:
        return f"{where} is a transposed convolution"
    return Use(user, layer)


def chosen_weights(program: Program, targets: Sequence[str], ignore: Sequence[str], what: str) -> list[Weight]:
    """The weights that names leave and that can be products.

    Raises:
        GraphError: there is none, or a target speaks of none that can.
        RecipeError: a name matches nothing.
    """
    every = find_weights(program)
    where = f"pass {what}"
    chosen = choose(every, lambda w: w.names, targets, ignore, what)
    for pattern in targets:
        named = [w for w in every if matches(pattern, w.names)]
        if all(w.why for w in named):
            raise GraphError(f"cannot factorise {named[0].name}", where=where, why=named[0].why)
    able = [w for w in chosen if not w.why]
    if not able:
        why = "; ".join(f"{w.name}: {w.why}" for w in chosen[:3]) or "ignore leaves no weight"
        raise RecipeError("there is nothing to factorise", where=where, why=why)
    return able
