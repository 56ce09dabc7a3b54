"""Inserting integers into a program: as what they do to its numbers, or as what a runtime runs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import Argument

from graphc.ir.edit import rebuild, unused_name
from graphc.ir.kinds import kind
from graphc.ir.program import Program
from graphc.ir.quantized import DEQUANTIZE, DYNAMIC, FAKE, QUANTIZE, RANGES, UNPACK

from ..contractions import Contraction
from .numbers import Chosen, Numbers, Rounded
from .placement import Point, source

aten = torch.ops.aten
BIAS = {"conv1d": 2, "conv2d": 2, "conv3d": 2, "linear": 2, "addmm": 0}
"""Where the bias stands of ops whose kernels take one of integers."""
BIAS_REACH = 2.0**30
"""Steps that a bias may be away from zero: half of what 32 bits hold."""


def simulated(
    program: Program, points: Sequence[Point], chosen: Chosen, rounded: Mapping[str, Rounded], note: str | None = None
) -> Program:
    """The program computed in real numbers that integers stand for: what the converted one gives, to rounding."""
    return _Insertion(program, points, chosen, {}, False).program(
        {name: _like(program, name, found.real()) for name, found in rounded.items()}, note
    )


def _like(program: Program, name: str, value: torch.Tensor) -> torch.Tensor:
    old = program.tensors()[name]
    return torch.nn.Parameter(value.to(old.dtype), old.requires_grad) if isinstance(old, torch.nn.Parameter) else value


def converted(
    program: Program,
    points: Sequence[Point],
    chosen: Chosen,
    rounded: Mapping[str, Rounded],
    products: Sequence[Contraction] = (),
    note: str | None = None,
) -> Program:
    """The program with integers: weights kept as such, values made integers and real again around each op.

    Args:
        program: in real numbers; stays as it is.
        points: values that become integers.
        chosen: the numbers of each group of them.
        rounded: weights by name.
        products: convolutions and products of matrices among these get a bias of integers too.
        note: what to add to the history.
    """
    insertion = _Insertion(program, points, chosen, rounded, True)
    insertion.biases(products)
    return insertion.program({}, note)


def _bias(product: Contraction) -> Node | None:
    """The bias that is added to integers: of a convolution, or of a product of matrices."""
    where = BIAS.get(kind(product.node))
    images = kind(product.node).startswith("conv") or product.data.meta["val"].dim() == 2
    bias = product.node.args[where] if where is not None and images and len(product.node.args) > where else None
    return bias if isinstance(bias, Node) else None


def _made(graph: Graph, near: Node, target: Callable[..., object], *args: Argument, name: str | None = None) -> Node:
    """A new node that belongs to the module that another does."""
    new = graph.create_node("call_function", target, args, name=name)
    new.meta = {key: near.meta[key] for key in ("nn_module_stack", "stack_trace") if key in near.meta}
    return new


def _wide_enough(weight: Rounded, bias: torch.Tensor, scale: torch.Tensor) -> Rounded:
    """The weight, with greater scales where 32 bits in steps of both scales would not reach the bias.

    So it is for outputs whose weights are next to nothing, as those of a batch norm that lets nothing through.
    """
    least = bias.abs() / (scale * BIAS_REACH)
    kept = weight.numbers.scale
    wider = torch.maximum(kept, least.view(kept.shape) if kept.dim() else least.max())
    if torch.equal(wider, kept):
        return weight
    numbers = replace(weight.numbers, scale=wider)
    return replace(weight, numbers=numbers, integers=numbers.integers(weight.real()))


class _Insertion:
    """One rewriting: nodes that are to be put in, and the tensors that they read."""

    def __init__(
        self,
        program: Program,
        points: Sequence[Point],
        chosen: Chosen,
        rounded: Mapping[str, Rounded],
        integers: bool,
    ) -> None:
        self.source, self.points, self.chosen, self.rounded = program, points, chosen, rounded
        self.integers = integers
        self.bias: dict[str, tuple[str, str]] = {}
        self.tensors: dict[str, torch.Tensor] = {}

    def program(self, replaced: Mapping[str, torch.Tensor], note: str | None) -> Program:
        self.tensors.update(replaced)
        return rebuild(self.source, self._edit, tensors=self.tensors, note=note)

    def biases(self, products: Sequence[Contraction]) -> None:
        """Biases of convolutions and products of matrices in steps of the product of both scales."""
        groups = {point.node: point.group for point in self.points}
        held = self.source.tensors()
        for product in products:
            bias = _bias(product)
            numbers = self.chosen.get(groups.get(source(product)[1].name, ""))
            if bias is None or bias.op != "get_attr" or len(bias.users) > 1 or numbers is None:
                continue
            if product.weight in self.rounded:
                value, name = held[str(bias.target)].detach(), str(bias.target)
                weight = _wide_enough(self.rounded[product.weight], value, numbers.scale)
                scale = (numbers.scale * weight.numbers.scale).flatten().expand(len(value))
                zero = torch.zeros(len(value), dtype=torch.int32)
                whole = Numbers(scale.contiguous(), zero, *RANGES[torch.int32])
                added = Rounded(whole.integers(value.double()), whole)
                self.rounded = {**self.rounded, product.weight: weight, name: added}

    def _edit(self, graph: Graph) -> None:
        nodes = {node.name: node for node in graph.nodes}
        for name, found in self.rounded.items():
            place = next(n for n in nodes.values() if n.op == "get_attr" and n.target == name)
            nodes.update(self._weight(graph, place, found))
        made: dict[str, tuple[Node, Node]] = {}
        for point in self.points:
            self._value(graph, point, nodes, made)

    def _tensor(self, graph: Graph, name: str, value: torch.Tensor) -> Node:
        name = unused_name(name, {**self.source.tensors(), **self.tensors})
        self.tensors[name] = value
        return graph.create_node("get_attr", name, name=name.replace(".", "_"))

    def _weight(self, graph: Graph, node: Node, found: Rounded) -> dict[str, Node]:
        """Put integers in the place of a weight; what stands for ops that are gone now, by their names."""
        name = str(node.target)
        self.tensors[name] = torch.nn.Parameter(found.stored(), requires_grad=False)
        users = list(node.users)
        with graph.inserting_after(node):
            scale = self._tensor(graph, f"{name}_scale", found.numbers.scale)
        with graph.inserting_after(scale):
            zero = self._tensor(graph, f"{name}_zero_point", found.numbers.zero_point)
        readers = [user for user in users if kind(user) != "embedding"]
        if readers:
            first, last = min(readers), zero
            with graph.inserting_before(first):
                for target, args in self._back(node, scale, zero, found):
                    last = _made(graph, first, target, *[last if a is None else a for a in args])
            for user in readers:
                user.replace_input_with(node, last)
        return {user.name: self._rows(graph, user, (node, scale, zero), found) for user in users if user not in readers}

    def _rows(self, graph: Graph, user: Node, tensors: Sequence[Node], found: Rounded) -> Node:
        """An embedding as rows of integers, which only then become real: no table of real numbers is made."""
        parts = list(tensors)
        with graph.inserting_before(user):
            if bool((found.numbers.zero_point == found.numbers.zero_point.flatten()[0]).all()):
                name = f"{tensors[0].target}_zero"
                zero = self._tensor(graph, name, found.numbers.zero_point.flatten()[0].clone())
                rows = [self._gathered(graph, part, user) for part in parts[:2]] + [zero]
            else:
                rows = [self._gathered(graph, part, user) for part in parts]
            if found.packed:
                rows[0] = _made(graph, user, UNPACK, rows[0])
            new = _made(graph, user, DEQUANTIZE, *rows)
            if found.blocks:
                new = _made(graph, user, aten.flatten.using_ints, new, -2)
        user.replace_all_uses_with(new)
        graph.erase_node(user)
        return new

    def _gathered(self, graph: Graph, table: Node, user: Node) -> Node:
        """Rows of a table by number."""
        if self.tensors[str(table.target)].dim() == 2:
            return _made(graph, user, aten.embedding.default, table, user.args[1])
        return _made(graph, user, aten.index.Tensor, table, [user.args[1]])

    @staticmethod
    def _back(node: Node, scale: Node, zero: Node, found: Rounded) -> list[tuple[Callable[..., object], Sequence[Any]]]:
        """The ops that make a weight of integers real again; None is what the one before gives."""
        steps: list[tuple[Callable[..., object], Sequence[Any]]] = []
        if found.packed:
            steps.append((UNPACK, (node,)))
        steps.append((DEQUANTIZE, (None if found.packed else node, scale, zero)))
        if found.blocks:
            out, blocks, block = found.integers.shape
            steps.append((aten.view.default, (None, [out, blocks * block])))
        if found.turned:
            steps.append((aten.t.default, (None,)))
        return steps

    def _value(self, graph: Graph, point: Point, nodes: Mapping[str, Node], made: dict[str, tuple[Node, Node]]) -> None:
        node = nodes[point.node]
        users = [nodes[name] for name in point.readers] or list(node.users)
        numbers = self.chosen[point.group]
        if numbers is None:
            new = self._dynamic(graph, node)
        else:
            with graph.inserting_after(node):
                new = self._around(graph, node, point, numbers, made)
        for user in users:
            user.replace_input_with(node, new)

    def _around(
        self, graph: Graph, node: Node, point: Point, numbers: Numbers, made: dict[str, tuple[Node, Node]]
    ) -> Node:
        """A value as integers and real again, with the scale of its group."""
        scale, zero = made.get(point.group) or (None, None)
        if scale is None or zero is None:
            scale = self._tensor(graph, f"{point.group}_scale", numbers.scale)
            with graph.inserting_after(scale):
                zero = self._tensor(graph, f"{point.group}_zero_point", numbers.zero_point)
            made[point.group] = (scale, zero)
        with graph.inserting_after(node if scale.prev is not node else zero):
            args = (node, scale, zero, numbers.low, numbers.high)
            if not self.integers:
                return _made(graph, node, FAKE, *args, name=f"{node.name}_rounded")
            whole = _made(graph, node, QUANTIZE, *args, name=f"{node.name}_quantized")
        with graph.inserting_after(whole):
            return _made(graph, node, DEQUANTIZE, whole, scale, zero, name=f"{node.name}_dequantized")

    @staticmethod
    def _dynamic(graph: Graph, node: Node) -> Node:
        with graph.inserting_after(node):
            made = _made(graph, node, DYNAMIC, node, name=f"{node.name}_quantized")
        parts: list[Node] = []
        last = made
        for index in range(3):
            with graph.inserting_after(last):
                last = _made(graph, node, operator.getitem, made, index)
            parts.append(last)
        with graph.inserting_after(last):
            return _made(graph, node, DEQUANTIZE, *parts, name=f"{node.name}_dequantized")
