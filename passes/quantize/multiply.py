"""Factors in an op of their own: where no seam is, a value is divided just before the layers that make up for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from graphc.errors import GraphError
from graphc.ir.edit import find, rebuild, unused_name
from graphc.ir.program import Program

from ..affine import Affine, affine, read_once
from .seam import check_factors, replaced

MUL = torch.ops.aten.mul.Tensor


@dataclass(frozen=True, eq=False)
class Multiplier:
    """A value that some layers are to read divided by a factor for each unit.

    Attributes:
        value: name of the node.
        readers: names of linear layers, or of convolutions, whose weights no other op reads.
        factors: positive, ``[units]``.
    """

    value: str
    readers: tuple[str, ...]
    factors: torch.Tensor


def free_readers(program: Program, value: Node) -> dict[str, Affine]:
    """The layers that read a value, and whose weights are parameters that nothing else reads, by name."""
    once = read_once(program.graph)
    layers = [affine(program, user) for user in value.users]
    return {a.node.name: a for a in layers if a is not None and a.data is value and a.weight in once}


def with_multipliers(
    program: Program,
    multipliers: Sequence[Multiplier],
    tensors: Mapping[str, torch.Tensor] | None = None,
    note: str | None = None,
) -> Program:
    """The same function; values are multiplied by the reciprocals of factors, columns of weights by the factors.

    The reciprocals are buffers called ``<value>_factors``.

    Args:
        program: stays as it is.
        multipliers: in any order.
        tensors: new values of tensors of the program, by name; the weights that are multiplied are these.
        note: what to add to the history.

    Raises:
        GraphError: a reader is no layer that reads the value and has its weight for itself, or factors do not fit.
    """
    new = dict(tensors or {})
    own = program.tensors()
    names: list[str] = []
    for multiplier in multipliers:
        for layer in _layers(program, multiplier):
            weight = new.get(layer.weight, own[layer.weight])
            new[layer.weight] = replaced(weight, layer.scale_columns(weight.detach(), multiplier.factors))
            rank = layer.data.meta["val"].dim()
            shape = [-1] + [1] * (rank - 1 - layer.dim)
        name = unused_name(f"{multiplier.value}_factors", own | new)
        new[name] = multiplier.factors.reciprocal().to(weight.dtype).reshape(shape)
        names.append(name)

    def edit(graph: Graph) -> None:
        for multiplier, name in zip(multipliers, names, strict=True):
            _insert(graph, multiplier, name)

    return rebuild(program, edit, tensors=new, note=note)


def _layers(program: Program, multiplier: Multiplier) -> list[Affine]:
    value = find(program.graph, multiplier.value)
    free = free_readers(program, value)
    for name in multiplier.readers:
        if name not in free:
            why = "it is no layer that reads the value, or its weight has other readers"
            raise GraphError(f"cannot multiply {value.name} before {name}", why=why)
        check_factors(multiplier.factors, value.meta["val"].shape[free[name].dim], value.name)
    return [free[name] for name in multiplier.readers]


def _insert(graph: Graph, multiplier: Multiplier, name: str) -> None:
    value = find(graph, multiplier.value)
    with graph.inserting_after(value):
        factors = graph.create_node("get_attr", name, name=name)
    with graph.inserting_after(factors):
        product = graph.call_function(MUL, (value, factors))
    product.meta = {key: value.meta[key] for key in ("nn_module_stack", "stack_trace") if key in value.meta}
    for reader in multiplier.readers:
        find(graph, reader).replace_input_with(value, product)
