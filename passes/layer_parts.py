"""Parts of a layer by what the graph does with its tensors: attention, feed-forward, norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

import torch
from torch.fx import Node

from graphc.coupling.regions import alike

from .blocks import Block

aten = torch.ops.aten
PARTS = ("attention", "feed-forward", "norms")
ATTENTION = {
    aten.scaled_dot_product_attention.default,
    aten.softmax.int,
    aten._softmax.default,
}
NORMS = {
    *(aten.layer_norm.default, aten.native_layer_norm.default, aten.rms_norm.default, aten.batch_norm.default),
    *(aten.group_norm.default, aten.instance_norm.default),
}
SCALES = {aten.mul.Tensor, aten.add.Tensor}
CASTS = {aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.type_as.default}


def part_of(block: Block, tensor: Node) -> str:
    """The part that a tensor of a layer belongs to.

    Norms are what a normalisation reads, written out or not. Attention is what leads to a softmax, or from one,
    without a residual sum between: a sum of two values as large as what leaves the layer. All else is feed-forward.
    """
    readers = [user for user in tensor.users if user in block.nodes]
    if any(user.target in NORMS or _scales_normalised(user, tensor) for user in readers):
        return "norms"
    if any(_meets(user, block, way) for user in readers for way in (_users, _inputs)):
        return "attention"
    return "feed-forward"


def _users(node: Node) -> Iterator[Node]:
    yield from node.users


def _inputs(node: Node) -> Iterator[Node]:
    yield from node.all_input_nodes


def _meets(start: Node, block: Block, way: Callable[[Node], Iterator[Node]]) -> bool:
    """Is there a softmax on a way from here that crosses no residual sum?"""
    stack, seen = [start], {start}
    while stack:
        node = stack.pop()
        if node.target in ATTENTION:
            return True
        if node is not start and _residual(node, block.nodes, block.exits[-1]):
            continue
        for other in way(node):
            if other in block.nodes and other not in seen:
                seen.add(other)
                stack.append(other)
    return False


def _residual(node: Node, region: Set[Node], leave: Node) -> bool:
    own = [n for n in node.all_input_nodes if n.op != "get_attr"]
    return node.target is aten.add.Tensor and len(own) == 2 and alike(node, leave)


def _scales_normalised(node: Node, tensor: Node) -> bool:
    """Does an op multiply, or shift, what was divided by its root mean square or its deviation?"""
    if node.target not in SCALES:
        return False
    other = next((n for n in node.all_input_nodes if n is not tensor), None)
    while other is not None and other.target in CASTS:
        other = other.all_input_nodes[0]
    if other is None or other.target not in (aten.mul.Tensor, aten.div.Tensor):
        return False
    return any(n.target in (aten.rsqrt.default, aten.sqrt.default) for n in other.all_input_nodes) or (
        node.target is aten.add.Tensor and any(_scales_normalised(other, n) for n in other.all_input_nodes)
    )
