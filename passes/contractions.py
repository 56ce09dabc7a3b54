"""Contractions: where a weight meets what it multiplies, and along which of its dims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from graphc.ir.graph import attribute
from graphc.ir.masks import MUL
from graphc.ir.program import Program
from graphc.ir.quantized import FAKE

aten = torch.ops.aten
CONV, TRANSPOSED, RIGHT = (1, 1, 0, 1), (1, 0, 0, 1), (1, -2, 0, -1)
OPS = {
    "aten.linear.default": (1, -1, 0, -1),
    "aten.addmm.default": (2, -2, 1, -1),
    "aten.baddbmm.default": (2, -2, 1, -1),
    **dict.fromkeys([f"aten.{name}.default" for name in ("mm", "bmm", "matmul", "_grouped_mm")], RIGHT),
    "transformers.grouped_mm_fallback.default": RIGHT,
    **dict.fromkeys([f"aten.conv{n}d.{way}" for n in (1, 2, 3) for way in ("default", "padding")], CONV),
    **dict.fromkeys(
        ["aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input"], TRANSPOSED
    ),
}
"""Of each op which argument is the weight, the dim of it that is summed over, which argument is the
data, and the dim of that."""


@dataclass(frozen=True)
class Contraction:
    """A weight of a convolution, a linear layer or a matrix product.

    Attributes:
        weight: name of the parameter.
        node: the op.
        dim: the dim of the weight that is summed over: the inputs of a unit (of a group).
        data: the value that the weight multiplies.
        data_dim: its dim that is summed over; with groups it has all of them, one after the other.
    """

    weight: str
    node: Node
    dim: int
    data: Node
    data_dim: int


def contractions(program: Program) -> Iterator[Contraction]:
    """Every op that multiplies data with a parameter, masked, transposed, rounded or not, in graph order."""
    for node in program.graph.nodes:
        if str(node.target) not in OPS:
            continue
        place, dim, data_place, data_dim = OPS[str(node.target)]
        source, data = node.args[place], node.args[data_place]
        found = parameter_of(program.module, source) if isinstance(source, Node) else None
        if found is not None and isinstance(data, Node):
            name, order = found
            yield Contraction(name, node, order[dim], data, data_dim % len(data.meta["val"].shape))


def parameter_of(module: torch.nn.Module, node: Node) -> tuple[str, list[int]] | None:
    """The parameter that a value is, and which of its dims each dim is; None if it is none."""
    if node.target is aten.transpose.int and isinstance(node.args[0], Node):
        found = parameter_of(module, node.args[0])
        if found is not None:
            first, second = (int(dim) for dim in node.args[1:3])  # type: ignore[arg-type] # by the op's schema
            order = list(found[1])
            order[first], order[second] = order[second], order[first]
            return found[0], order
    if node.target is FAKE and isinstance(node.args[0], Node):
        return parameter_of(module, node.args[0])
    if node.target is MUL and all(n.op == "get_attr" for n in node.all_input_nodes):
        return next((found for n in node.all_input_nodes if (found := parameter_of(module, n))), None)
    if node.op != "get_attr" or not isinstance(attribute(module, str(node.target)), torch.nn.Parameter):
        return None
    return str(node.target), list(range(attribute(module, str(node.target)).dim()))
