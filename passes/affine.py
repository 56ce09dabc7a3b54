"""Affine ops: convolutions and linear layers, and rows and columns of their weights, however these are laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves

from graphc.ir.program import Program

from .contractions import parameter_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Form:
    """Where an op has its data, weight, bias (None if it takes none) and groups (None if it has none).

    ``rows`` and ``columns`` are the dims of the weight that make units of the result and take units of
    the data, when the first dim of the weight is divided into ``[groups, ...]``.
    """

    data: int
    weight: int
    bias: int | None
    rows: int
    columns: int
    groups: int | None = None

    def unit_dim(self, node: Node) -> int:
        """The dim of units, in data and result alike: the last, or the channels of a convolution."""
        rank = len(node.meta["val"].shape)
        return rank - 1 if self.groups is None else rank - len(_node(node.args[self.weight]).meta["val"].shape) + 1

    def spread(self, factors: torch.Tensor, shape: Sequence[int], groups: int, dim: int) -> torch.Tensor:
        """What each unit has, ``[units]``, along ``rows`` or ``columns`` of a weight: broadcasts to its shape."""
        parts = [groups, *[1] * len(shape)]
        parts[dim] = -1
        spread = factors.reshape(parts)
        if groups > 1:
            spread = spread.expand(-1, shape[0] // groups, *[-1] * (len(shape) - 1))
        return spread.flatten(0, 1)


LINEAR = Form(data=0, weight=1, bias=2, rows=1, columns=2)
ADDMM = Form(data=1, weight=2, bias=0, rows=2, columns=1)
PRODUCT = Form(data=0, weight=1, bias=None, rows=2, columns=1)
CONV = Form(data=0, weight=1, bias=2, rows=1, columns=2, groups=6)
TRANSPOSED = Form(data=0, weight=1, bias=2, rows=2, columns=1, groups=6)
FORMS = {
    aten.linear.default: LINEAR,
    aten.addmm.default: ADDMM,
    aten.mm.default: PRODUCT,
    aten.matmul.default: PRODUCT,
    aten.bmm.default: PRODUCT,
    **{getattr(getattr(aten, f"conv{n}d"), way): CONV for n in (1, 2, 3) for way in ("default", "padding")},
    aten.conv_transpose1d.default: TRANSPOSED,
    aten.conv_transpose2d.input: TRANSPOSED,
    aten.conv_transpose3d.input: TRANSPOSED,
}


@dataclass(frozen=True)
class Affine:
    """One use of a weight: ``node = weight * data + bias``.

    Attributes:
        node: the op.
        form: where its arguments are.
        weight: name of the parameter that is the weight, itself or through a mask or a transposition.
        order: which dim of the parameter each dim of the operand is.
        groups: of a convolution; 1 for all others.
        dim: the dim of data and of the result that the units are on.
    """

    node: Node
    form: Form
    weight: str
    order: tuple[int, ...]
    groups: int
    dim: int

    @property
    def data(self) -> Node:
        """What the weight multiplies."""
        return _node(self.node.args[self.form.data])

    @property
    def operand(self) -> Node:
        """The weight as the op reads it."""
        return _node(self.node.args[self.form.weight])

    @property
    def bias(self) -> Node | None:
        """What is added, if it is a tensor of the graph."""
        args, place = self.node.args, self.form.bias
        found = args[place] if place is not None and place < len(args) else None
        return found if isinstance(found, Node) else None

    def put_bias(self, bias: Node) -> None:
        """Add this instead, in a graph that may be edited."""
        args = [*self.node.args, None] if self.form.bias == len(self.node.args) else list(self.node.args)
        assert self.form.bias is not None
        args[self.form.bias] = bias
        self.node.args = tuple(args)

    def scale_rows(self, parameter: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """The parameter with what makes each unit of the result multiplied; ``factors`` is ``[units]``."""
        return self._scale(parameter, factors, self.form.rows)

    def scale_columns(self, parameter: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """The parameter with what takes each unit of the data multiplied; ``factors`` is ``[units]``."""
        return self._scale(parameter, factors, self.form.columns)

    def row_maxima(self, operand: torch.Tensor) -> torch.Tensor:
        """The largest absolute weight of each unit of the result, ``[units]``."""
        return self.by_row(operand).abs().amax((2, 3)).flatten()

    def column_maxima(self, operand: torch.Tensor) -> torch.Tensor:
        """The largest absolute weight of each unit of the data, ``[units]``."""
        return self.by_row(operand).abs().amax((1, 3)).flatten()

    def by_row(self, operand: torch.Tensor) -> torch.Tensor:
        """The weight as ``[groups, rows, columns, places of the kernel]``."""
        parts = operand.reshape(self.groups, -1, *operand.shape[1:])
        parts = parts.transpose(1, 2) if self.form.rows == 2 else parts
        return parts.flatten(3) if parts.dim() > 3 else parts.unsqueeze(3)

    def _scale(self, parameter: torch.Tensor, factors: torch.Tensor, dim: int) -> torch.Tensor:
        operand = parameter.permute(self.order)
        scaled = operand * self.form.spread(factors, operand.shape, self.groups, dim)
        return scaled.permute([self.order.index(i) for i in range(scaled.dim())]).contiguous()


def affine(program: Program, node: Node) -> Affine | None:
    """What a node is if it is a convolution or a product with a parameter; None for any other.

    So it is for a weight that is computed from parameters, or is one of a batch of weights, and for
    ``addmm`` with factors.
    """
    form = FORMS.get(node.target)
    if form is None or node.kwargs:
        return None
    operand = node.args[form.weight]
    found = parameter_of(program.module, operand) if isinstance(operand, Node) else None
    if found is None:
        return None
    name, order = found
    shape = _node(operand).meta["val"].shape
    if [program.module.get_parameter(name).shape[i] for i in order] != list(shape):
        return None
    if form.groups is None:
        return Affine(node, form, name, tuple(order), 1, form.unit_dim(node)) if len(shape) == 2 else None
    groups = node.args[form.groups] if len(node.args) > form.groups else 1
    assert isinstance(groups, int)
    return Affine(node, form, name, tuple(order), groups, form.unit_dim(node))


def constants(graph: Graph) -> set[Node]:
    """Nodes that depend on tensors of the program alone, and these."""
    found: set[Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and inputs and all(n in found for n in inputs)):
            found.add(node)
    return found


def read_once(graph: Graph) -> set[str]:
    """Names of the tensors that one op reads, in one place: not the tied ones. A mask is no reader of its weight."""
    own = constants(graph)
    places: Counter[Node] = Counter()
    for node in reversed(graph.nodes):
        for source in tree_leaves((node.args, node.kwargs)):
            if isinstance(source, Node) and source in own:
                places[source] += places[node] if node in own else 1
    readers: Counter[str] = Counter()
    for node in own:
        if node.op == "get_attr":
            readers[str(node.target)] += places[node]
    return {name for name, count in readers.items() if count == 1}


def constant(node: Node, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The value of a node that depends on tensors of the program alone, as a mask's product does."""
    if node.op == "get_attr":
        return tensors[str(node.target)].detach()
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: constant(n, tensors))
    value: torch.Tensor = node.target(*args, **kwargs)  # type: ignore[operator] # an op overload
    return value


def _node(value: object) -> Node:
    assert isinstance(value, Node)
    return value
