"""Rewriting: every op that reads a weight becomes two or three that read the tensors of its product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.ir.edit import rebuild, unused_name
from graphc.ir.graph import module_path
from graphc.ir.program import Program

from .products import Method
from .weights import Use, Weight

aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """What a weight becomes: tensors by part, in the order in which data meets them."""

    weight: Weight
    method: Method
    tensors: Mapping[str, torch.Tensor]


def with_products(program: Program, products: Sequence[Product]) -> tuple[Program, dict[str, dict[str, str]]]:
    """The program with products in place of weights, and the name of each tensor by weight and part.

    ``encoder.weight`` becomes ``encoder.down.weight`` and ``encoder.up.weight`` (and ``encoder.core.weight``). The last
    op is the old one, with its name, module and bias; those before it are in modules below.
    """
    taken = set(program.tensors())
    names: dict[str, dict[str, str]] = {}
    new: dict[str, torch.Tensor] = {}
    for product in products:
        names[product.weight.name] = own = {}
        old = program.tensors()[product.weight.name]
        for part, value in product.tensors.items():
            own[part] = unused_name(_name(product.weight.name, part), taken)
            taken.add(own[part])
            new[own[part]] = torch.nn.Parameter(value, old.requires_grad)

    def edit(graph: Graph) -> None:
        nodes = {node.name: node for node in graph.nodes}
        for product in products:
            _Edit(graph, nodes, product, names[product.weight.name]).run()

    return rebuild(program, edit, tensors=new), names


def _name(weight: str, part: str) -> str:
    path, _, last = weight.rpartition(".")
    inner = path if last == "weight" else weight
    return f"{inner}.{part}.weight" if inner else f"{part}.weight"


class _Edit:
    """The rewriting of one weight."""

    def __init__(self, graph: Graph, nodes: Mapping[str, Node], product: Product, names: Mapping[str, str]) -> None:
        self.graph, self.nodes, self.product = graph, nodes, product
        place = next(n for n in graph.nodes if n.op == "get_attr" and n.target == product.weight.name)
        self.parts: dict[str, Node] = {}
        self.turned: dict[str, Node] = {}
        with graph.inserting_before(place):
            for part, name in names.items():
                self.parts[part] = graph.create_node("get_attr", name, name=name.replace(".", "_"))

    def run(self) -> None:
        for use in self.product.weight.uses:
            node = self.nodes[use.node.name]
            if use.layer is None:
                self.embedding(node)
            elif use.layer.form.groups is not None:
                self.convolution(node)
            else:
                self.linear(node, use)

    def before(self, node: Node, part: str, target: Any, *args: Any, **kwargs: Any) -> Node:
        """An op before the last one, in a module below its own."""
        with self.graph.inserting_before(node):
            made = self.graph.create_node("call_function", target, args, kwargs)
        made.meta = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
        stack, path = made.meta.get("nn_module_stack"), module_path(node)
        if stack:
            kind = next(reversed(stack.values()))[1]
            inner = f"{path}.{part}" if path else part
            made.meta["nn_module_stack"] = {**stack, inner: (inner, kind)}
        return made

    def laid(self, part: str, turn: bool) -> Node:
        """A tensor as it is, or transposed, once for all."""
        if not turn:
            return self.parts[part]
        if part not in self.turned:
            with self.graph.inserting_after(self.parts[part]):
                self.turned[part] = self.graph.call_function(aten.transpose.int, (self.parts[part], 0, 1))
        return self.turned[part]

    def embedding(self, node: Node) -> None:
        rows = self.before(node, "down", node.target, self.parts["down"], *node.args[1:], **node.kwargs)
        node.target = aten.linear.default
        node.args, node.kwargs = (rows, self.parts["up"]), {}

    def linear(self, node: Node, use: Use) -> None:
        assert use.layer is not None
        first_use, form = self.product.weight.uses[0], use.layer.form
        first = first_use.layer
        same = use.contracted == first_use.contracted
        inner, outer = ("down", "up") if same else ("up", "down")
        turned = {"down": first is None or first.form.rows == 2, "up": first is not None and first.form.rows == 2}
        # As stored, is the rank the second dim of the tensor that is met first, and the first of the other?
        last = {"down": turned["down"], "up": not turned["up"]}
        wide = form.rows == 2
        weights = self.laid(inner, last[inner] != wide), self.laid(outer, last[outer] == wide)
        data = node.args[form.data]
        target = aten.mm.default if node.target is aten.addmm.default else node.target
        low = self.before(node, "down", target, data, weights[0])
        args = list(node.args)
        args[form.data], args[form.weight] = low, weights[1]
        node.args = tuple(args)

    def convolution(self, node: Node) -> None:
        data, _, *more = node.args
        bias, rest = (more[0] if more else None), list(more[1:])
        kernel = len(self.product.weight.shape) - 2
        one = getattr(aten, f"conv{kernel}d").default
        if self.product.method == "spatial":
            first, second = _split(rest, kernel)
            low = self.before(node, "down", node.target, data, self.parts["down"], None, *first)
            node.args = (low, self.parts["up"], bias, *second)
            return
        if self.product.method == "tucker-2":
            data = self.before(node, "down", one, data, self.parts["down"])
        inner = "core" if self.product.method == "tucker-2" else "down"
        low = self.before(node, inner, node.target, data, self.parts[inner], None, *rest)
        node.target = one
        node.args = (low, self.parts["up"], bias)


def _split(rest: Sequence[Any], kernel: int) -> tuple[list[Any], list[Any]]:
    """Strides, padding and dilation along the first dim alone, and along the others."""
    first: list[Any] = []
    second: list[Any] = []
    for value, nothing in zip(rest, (1, 0, 1), strict=False):
        if isinstance(value, str):
            first.append(value)
            second.append(value)
            continue
        each = list(value) if isinstance(value, (list, tuple)) else [value]
        each = each * kernel if len(each) == 1 else each
        first.append([each[0], *[nothing] * (kernel - 1)])
        second.append([nothing, *each[1:]])
    return first, second
