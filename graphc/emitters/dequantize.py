"""DequantizeLinear: how ONNX has what makes integers real, turned as products read it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from graphc.ir.graph import attribute
from graphc.ir.quantized import LIBRARY, UNPACK, expand

aten = torch.ops.aten
FOUR_BITS = "_four_bits"
"""How names of tensors end that are to be stored in four bits."""

LIBRARY.define("dequantize_linear(Tensor x, Tensor scale, Tensor zero_point, int axis, int block) -> Tensor")


def _dequantize_linear(x: Any, scale: Any, zero_point: Any, axis: int, block: int) -> Any:
    """ONNX's op: a scale a tensor, an entry of ``axis``, or a block of entries along it."""
    if block:
        scale, zero_point = (v.repeat_interleave(block, axis) for v in (scale, zero_point))
    elif scale.dim():
        shape = [1] * x.dim()
        shape[axis] = -1
        scale, zero_point = scale.view(shape), zero_point.view(shape)
    return torch.ops.graphc.dequantize(x, scale, zero_point)


LIBRARY.impl("dequantize_linear", _dequantize_linear, "CompositeExplicitAutograd")
torch.library.register_fake("graphc::dequantize_linear", _dequantize_linear, lib=LIBRARY)
LINEAR = torch.ops.graphc.dequantize_linear.default


def read(node: Node, index: int = 0) -> Node:
    """A tensor that an op reads."""
    found = node.args[index]
    assert isinstance(found, Node)
    return found


def made_near(graph: Graph, near: Node, target: Any, *args: Any) -> Node:
    """A new node with its value, in the place of another in the user's code."""
    new = graph.call_function(target, args)
    new.meta = {key: near.meta[key] for key in ("nn_module_stack", "stack_trace") if key in near.meta}
    new.meta["val"] = target(*torch.fx.node.map_arg(args, lambda n: n.meta["val"]))
    return new


def scale_rank(node: Node) -> int:
    """Along how many dims a scale varies."""
    return sum(size != 1 for size in read(node, 1).meta["val"].shape)


def held_tensor(value: Any) -> Node | None:
    """The node of the tensor that a value is, packed or not."""
    if isinstance(value, Node) and value.target is UNPACK:
        value = value.args[0]
    return value if isinstance(value, Node) and value.op == "get_attr" else None


class Restated:
    """One ``dequantize`` as ONNX's DequantizeLinear."""

    def __init__(self, module: GraphModule, node: Node) -> None:
        self.module, self.graph, self.node = module, module.graph, node
        self.x, self.scale, self.zero_point = (read(node, i) for i in range(3))

    def replace(self) -> None:
        """Put it in the place of the node."""
        held = held_tensor(self.x)
        rank = scale_rank(self.node)
        if rank == 0:
            self._put(self.node, self.x, self.flat(self.scale), self.flat(self.zero_point), 0, 0)
        elif held is None:  # rows of a table with a scale each: ONNX has no op for them
            expand(self.graph, self.node)
        elif rank == 1 and self.x is held:
            self._by_axis(held)
        else:
            self._by_blocks(held)

    def _by_axis(self, held: Node) -> None:
        axis = next(i for i, size in enumerate(self.value(self.scale).shape) if size != 1)
        after = self._turned(self.node)
        data = self.value(held)
        if after is not None and len(held.users) == 1:  # kept turned: nothing is left to do when it runs
            data, axis, held = data.transpose(0, 1).contiguous(), 1 - axis, self.new(held, "_turned", data.t())
        else:
            after = None
        self._put(after or self.node, held, self.flat(self.scale), self.flat(self.zero_point), axis, 0)

    def _by_blocks(self, held: Node) -> None:
        """``[out, blocks, block]`` seen as ``[out, in]``, as ``[in, out]`` where products read it so."""
        data = self.value(held)
        four = self.x is not held
        if four:
            data = torch.ops.graphc.unpack_int4(data)
        block = data.shape[-1]
        scale, zero_point = (self.value(v).squeeze(-1) for v in (self.scale, self.zero_point))
        whole = next(iter(self.node.users))
        after = self._turned(whole) if len(self.node.users) == 1 else None
        data, axis = data.flatten(-2), data.dim() - 2
        if after is not None:
            data, scale, zero_point, axis = data.t(), scale.t(), zero_point.t(), 0
        ending = FOUR_BITS if four else "_blocks"
        kept = self.new(held, ending, data)
        scales, zeros = self.new(self.scale, ending, scale), self.new(self.zero_point, ending, zero_point)
        self._put(after or whole, kept, scales, zeros, axis, block)

    @staticmethod
    def _turned(node: Node) -> Node | None:
        """The transposition that is all a weight is for."""
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0].target is aten.t.default else None

    def value(self, node: Node) -> torch.Tensor:
        """The tensor that a node reads."""
        found = attribute(self.module, str(node.target))
        assert isinstance(found, torch.Tensor)
        return found.detach()

    def flat(self, node: Node) -> Node:
        """A scale as ONNX wants it; one that is computed has no dims already."""
        if node.op != "get_attr" or self.value(node).dim() == 0:
            return node
        value = self.value(node)
        return self.new(node, "_flat", value.flatten() if value.numel() > 1 else value.reshape(()))

    def new(self, like: Node, ending: str, value: torch.Tensor) -> Node:
        """A tensor of the file alone, named after another."""
        name = f"{like.target}{ending}".replace(".", "_")
        if not hasattr(self.module, name):
            self.module.register_buffer(name, value.contiguous())
        with self.graph.inserting_before(self.node):
            return self.graph.get_attr(name)

    def _put(self, instead: Node, x: Node, scale: Node, zero_point: Node, axis: int, block: int) -> None:
        with self.graph.inserting_before(instead):
            new = self.graph.call_function(LINEAR, (x, scale, zero_point, axis, block))
        instead.replace_all_uses_with(new)
