"""Candidates: what an edge chooses among, read off the graph and named as DARTS names it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.fx import Graph, Node

from graphc.ir.functional import source_of
from graphc.ir.graph import module_kinds
from graphc.rules.operation import hint

from .mixtures import Edge

aten = torch.ops.aten
NONE = "none"
SKIP = "skip_connect"
ZEROS = {aten.zeros_like.default, aten.zeros.default, aten.new_zeros.default}
FULL = {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2}
KEEP_ZERO = {aten.clone.default, aten.cat.default, aten.stack.default, aten.relu.default, aten.neg.default}
CONVOLUTIONS = {
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    aten.convolution.default,
}
LINEAR = {aten.linear.default, aten.addmm.default, aten.mm.default}


def is_zero(node: Node) -> bool:
    """Is a value zero whatever the input is?"""
    if node.target in ZEROS:
        return True
    if node.target in FULL:
        return bool(node.args[FULL[node.target]] == 0)
    if node.target is aten.mul.Tensor:
        return any(is_zero(x) if isinstance(x, Node) else x == 0 for x in node.args)
    if node.target in KEEP_ZERO or source_of(node) is not None:
        tensors = node.all_input_nodes
        return bool(tensors) and all(map(is_zero, tensors))
    return False


class Cones:
    """For each node of a graph all nodes before it that it depends on."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = list(graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.before: list[int] = []
        self.fed: list[bool] = []
        for i, node in enumerate(self.nodes):
            mask = 1 << i
            for source in node.all_input_nodes:
                mask |= self.before[self.place[source]]
            self.before.append(mask)
            self.fed.append(node.op == "placeholder" or any(self.fed[self.place[n]] for n in node.all_input_nodes))

    def reads(self, value: Node, source: Node) -> bool:
        """Is a value computed from another, or the same?"""
        return bool(self.before[self.place[value]] >> self.place[source] & 1)

    def state(self, values: Iterable[Node]) -> Node | None:
        """The last value that all of these are computed from, or are; None if there is none."""
        masks = [self.before[self.place[value]] for value in values]
        common = masks[0] if masks else 0
        for mask in masks[1:]:
            common &= mask
        while common:
            last = common.bit_length() - 1
            if self.fed[last] and isinstance(self.nodes[last].meta.get("val"), torch.Tensor):
                return self.nodes[last]
            common ^= 1 << last
        return None

    def between(self, state: Node | None, value: Node) -> list[Node]:
        """What is computed from a state on the way to a value."""
        mask = self.before[self.place[value]]
        mask &= ~self.before[self.place[state]] if state is not None else mask
        found: list[Node] = []
        while mask:
            last = mask.bit_length() - 1
            if self.fed[last] and self.nodes[last].op == "call_function":
                found.append(self.nodes[last])
            mask ^= 1 << last
        return found[::-1]


def state_of(cones: Cones, edge: Edge) -> Node | None:
    """The value that an edge's candidates work on."""
    every = list(edge.candidates.values())
    values = [value for value in every if not is_zero(value)]
    values = values if len(values) > 1 else every
    return cones.state(values) if len(values) > 1 else None


def name_candidates(cones: Cones, edge: Edge) -> list[str]:
    """A name for each place of an edge's row: DARTS's, for what DARTS has.

    Names that are not unique have their place added: ``conv_3x3:2``.
    """
    state = state_of(cones, edge)
    names = [
        _name(cones, state, edge.candidates[place], place) if place in edge.candidates else NONE
        for place in range(len(edge.row.weights))
    ]
    return [name if names.count(name) == 1 else f"{name}:{place}" for place, name in enumerate(names)]


def _name(cones: Cones, state: Node | None, value: Node, place: int) -> str:
    if is_zero(value):
        return NONE
    if value is state:
        return SKIP
    nodes = cones.between(state, value)
    convolutions = [node for node in nodes if node.target in CONVOLUTIONS]
    if convolutions:
        return _convolution(nodes, convolutions)
    for node in nodes:
        word = str(node.target).removeprefix("aten.").partition(".")[0]
        if word.startswith(("max_pool", "avg_pool")):
            kernel = node.args[1]
            return f"{word[:8]}_{_by(kernel if isinstance(kernel, (list, tuple)) else [kernel])}"
    if sum(node.target in LINEAR for node in nodes) == 1:
        return "linear"
    return _of_module(nodes, state) or f"candidate_{place}"


def _convolution(nodes: Sequence[Node], found: Sequence[Node]) -> str:
    kernels = [[hint(size) for size in _weight(node).shape[2:]] for node in found]
    depthwise = [i for i, node in enumerate(found) if _is_depthwise(node)]
    pointwise = all(max(kernel) == 1 for kernel in kernels)
    if pointwise and len(found) > 1 and any(node.target is aten.cat.default for node in nodes):
        return SKIP  # a factorised reduction
    kernel = _by(kernels[depthwise[0]] if depthwise else next((k for k in kernels if max(k) > 1), kernels[0]))
    dilated = any(_dilation(node) > 1 for node in found)
    if depthwise and max(kernels[0]) == 1 and depthwise[0] > 0:
        return f"mbconv_{kernel}"
    if dilated:
        return f"dil_conv_{kernel}"
    if depthwise:
        return f"sep_conv_{kernel}"
    wide = [_by(k) for k in kernels if max(k) > 1]
    if len(wide) > 1 and all(min(k) == 1 for k in kernels):
        kernel = "_".join(dict.fromkeys(wide[::-1]))
    return f"conv_{kernel}"


def _weight(node: Node) -> torch.Tensor:
    weight: torch.Tensor = node.args[1].meta["val"]  # type: ignore[union-attr] # a tensor by the op's schema
    return weight


def _is_depthwise(node: Node) -> bool:
    outputs, inputs = (hint(size) for size in _weight(node).shape[:2])
    groups = node.args[8 if node.target is aten.convolution.default else 6 :]
    count = int(groups[0]) if groups else 1  # type: ignore[arg-type] # a number by the op's schema
    return inputs == 1 and outputs % count == 0 and (count > 1 or outputs == 1) and max(_weight(node).shape[2:]) > 1


def _dilation(node: Node) -> int:
    given = node.args[5:6]
    dilation = given[0] if given else 1
    return max(dilation) if isinstance(dilation, (list, tuple)) else int(dilation)  # type: ignore[arg-type] # numbers by the schema


def _by(kernel: Iterable[object]) -> str:
    """A kernel as text: ``3x3``."""
    return "x".join(map(str, kernel))


def _of_module(nodes: Sequence[Node], state: Node | None) -> str:
    """The class of the outermost module that all of these are in, and the state is not."""
    inside = [module_kinds(node) for node in nodes]
    around = module_kinds(state) if state is not None else {}
    for path, kind in inside[0].items() if inside else ():
        if path not in around and path and all(path in kinds for kinds in inside):
            return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2].lower()
    return ""
