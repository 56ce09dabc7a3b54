"""Clamps with a bound for each unit, so that factors go through them: ``clamp(x, a, b) / s = clamp(x/s, a/s, b/s)``."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.ir.edit import rebuild, unused_name
from graphc.ir.graph import attribute
from graphc.ir.program import Program

from ..affine import FORMS

aten = torch.ops.aten
CLAMP = aten.clamp.Tensor
CLAMPS = {
    aten.relu6.default: (0.0, 6.0),
    aten.hardtanh.default: (-1.0, 1.0),
    aten.clamp.default: (None, None),
    aten.clamp_min.default: (None, None),
    aten.clamp_max.default: (None, None),
}
"""Ops, and their bounds where they are given none."""


def bounds_as_tensors(program: Program) -> Program:
    """Clamps of what layers give have bounds for each unit, buffers called ``<clamp>_low`` and ``<clamp>_high``."""
    new: dict[str, torch.Tensor] = {}
    taken = program.tensors()

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            dim = _unit_dim(node) if node.target in CLAMPS else None
            if dim is None:
                continue
            bounds: list[Node | None] = []
            for word, number in zip(("low", "high"), _numbers(node), strict=True):
                name = unused_name(f"{node.name}_{word}", taken | new)
                if number is not None:
                    new[name] = _for_each(node.meta["val"], dim, number)
                with graph.inserting_before(node):
                    bounds.append(None if number is None else graph.create_node("get_attr", name, name=name))
            node.target, node.args = CLAMP, (node.args[0], *bounds)

    return rebuild(program, edit, tensors=new)


def _for_each(value: torch.Tensor, dim: int, number: float) -> torch.Tensor:
    shape = [int(value.shape[dim]), *[1] * (value.dim() - 1 - dim)]
    return torch.full(shape, number, dtype=value.dtype, device=value.device)


def bounds_as_numbers(program: Program, original: Program) -> Program:
    """Clamps whose bounds are still those of the original program, for all units, are its ops again."""
    before = {node.name: node for node in original.graph.nodes if node.target in CLAMPS}

    def edit(graph: Graph) -> None:
        for node in graph.nodes:
            old = before.get(node.name)
            if old is not None and node.target is CLAMP and _is_unchanged(program, node, old):
                node.target, node.args = old.target, (node.args[0], *old.args[1:])

    return rebuild(program, edit)


def _is_unchanged(program: Program, node: Node, old: Node) -> bool:
    tensors = [attribute(program.module, str(a.target)) if isinstance(a, Node) else None for a in node.args[1:]]
    return all(t is None or bool((t == n).all()) for t, n in zip(tensors, _numbers(old), strict=True))


def _numbers(clamp: Node) -> list[Any]:
    """The lower and the upper bound."""
    given = list(clamp.args[1:])
    if clamp.target is aten.clamp_max.default:
        return [None, *given]
    return [*given, *CLAMPS[clamp.target][len(given) :]]  # type: ignore[index] # by the table


def _unit_dim(clamp: Node) -> int | None:
    """The dim of the units of the layer that makes the value, through ops that keep the rank; None if there is none."""
    maker, rank = clamp.args[0], clamp.meta["val"].dim()
    while isinstance(maker, Node) and maker.op == "call_function" and _rank(maker) == rank:
        form = FORMS.get(maker.target)
        if form is not None:
            return form.unit_dim(maker)
        maker = maker.args[0]
    return None


def _rank(node: Node) -> int | None:
    value = node.meta["val"]
    return value.dim() if isinstance(value, torch.Tensor) else None
