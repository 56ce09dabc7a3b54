"""Canonical form, made once at capture: functional ops, explicit sizes, no bookkeeping.

After this the graph has no in-place op, no ``chunk`` or ``split`` by count, no default attention scale, no negative
slice bound, no dead node, and one ``get_attr`` node for each tensor.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.ir.functional import END, is_whole_slice, make_functional
from graphc.ir.graph import drop_dead

aten = torch.ops.aten

ASSERTS = {
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}
IDENTITIES = {aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default, aten.lift_fresh.default}
CASTS = {
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.to.other,
    aten.type_as.default,
}
BY_COUNT = {aten.chunk.default, aten.unsafe_chunk.default}
BY_SIZE = {aten.split.Tensor, aten.unsafe_split.Tensor}
BY_BOUNDS = {aten.tensor_split.indices, aten.tensor_split.sections}


def canonicalize(graph: Graph, same: Mapping[str, str]) -> None:
    """Bring a freshly exported graph into canonical form.

    Args:
        graph: changed in place.
        same: for each ``get_attr`` target, the one name that stands for its tensor.

    Raises:
        CaptureError: an in-place op writes through an alias in a way that has no functional twin.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in ASSERTS:
            graph.erase_node(node)
        elif isinstance(node.target, torch._ops.OpOverload):
            _name_arguments(node)
    make_functional(graph)
    _one_node_a_tensor(graph, same)
    for node in list(graph.nodes):
        if node.op == "call_function":
            _simplify(graph, node)
    drop_dead(graph)
    graph.lint()


def _name_arguments(node: Node) -> None:
    """Put arguments that may be positional into their position."""
    args, kwargs = list(node.args), dict(node.kwargs)
    assert isinstance(node.target, torch._ops.OpOverload)
    for index, argument in enumerate(node.target._schema.arguments):
        if argument.kwarg_only or not kwargs:
            break
        if argument.name in kwargs:
            args += [a.default_value for a in node.target._schema.arguments[len(args) : index]]
            args.append(kwargs.pop(argument.name))
    node.args, node.kwargs = tuple(args), kwargs


def _one_node_a_tensor(graph: Graph, same: Mapping[str, str]) -> None:
    first: dict[str, Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            name = same.get(str(node.target), str(node.target))
            node.target = name
            kept = first.setdefault(name, node)
            if kept is not node:
                node.replace_all_uses_with(kept)
                graph.erase_node(node)


def _simplify(graph: Graph, node: Node) -> None:
    if node.target in IDENTITIES or (node.target in CASTS and _changes_nothing(node)) or is_whole_slice(node):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type] # a tensor by the op's schema
        graph.erase_node(node)
    elif _copies_all(node):
        node.replace_all_uses_with(node.args[1])  # type: ignore[arg-type] # a tensor by the op's schema
        graph.erase_node(node)
    elif node.target in BY_COUNT | BY_SIZE | BY_BOUNDS:
        _name_parts(graph, node)
    elif node.target is aten.scaled_dot_product_attention.default and node.kwargs.get("scale") is None:
        width = node.args[0].meta["val"].shape[-1]  # type: ignore[union-attr] # a node by the op's schema
        if isinstance(width, int):
            node.kwargs = {**node.kwargs, "scale": 1 / math.sqrt(width)}
    elif node.target is aten.slice.Tensor:
        _count_from_front(node)
    elif node.target is aten.repeat_interleave.self_int:
        node.kwargs = {}  # the size of the result, which dim and number say already


def _changes_nothing(node: Node) -> bool:
    before, after = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr] # a tensor
    return bool(before.dtype == after.dtype and before.device == after.device and not node.kwargs.get("copy"))


def _copies_all(node: Node) -> bool:
    """A copy into a tensor of the same kind: what is copied takes its place."""
    if node.target is not aten.copy.default:
        return False
    old, new = (n.meta["val"] for n in node.all_input_nodes[:2]) if len(node.all_input_nodes) == 2 else (None, None)
    return (
        isinstance(old, torch.Tensor)
        and isinstance(new, torch.Tensor)
        and (old.dtype, old.device) == (new.dtype, new.device)
        and [str(size) for size in old.shape] == [str(size) for size in new.shape]
    )


def _name_parts(graph: Graph, node: Node) -> None:
    """Say how long each part of a chunk or split is; along a dynamic dim the parts become slices."""
    dim = node.args[2] if len(node.args) > 2 else 0
    assert isinstance(dim, int)
    sizes = [part.shape[dim] for part in node.meta["val"]]
    if all(isinstance(size, int) for size in sizes):
        node.target = aten.split_with_sizes.default
        node.args = (node.args[0], sizes, dim)
    elif node.target not in BY_BOUNDS:
        _slice_parts(graph, node, dim)


def _slice_parts(graph: Graph, node: Node, dim: int) -> None:
    data, number = node.args[:2]
    assert isinstance(number, int)
    count = len(node.meta["val"])
    with graph.inserting_before(node):
        length: Any = number
        if node.target in BY_COUNT:
            size = _computed(graph, node, aten.sym_size.int, data, dim)
            length = _computed(graph, node, operator.add, size, number - 1)
            length = _computed(graph, node, operator.floordiv, length, number)
        bounds: list[Any] = [0, length]
        bounds += [_times(graph, node, length, i) for i in range(2, count)]
        parts = [
            _computed(graph, node, aten.slice.Tensor, data, dim, start, end)
            for start, end in pairwise([*bounds[:count], END])
        ]
    for user in list(node.users):
        user.replace_all_uses_with(parts[user.args[1]])  # type: ignore[index] # getitem by a number
        graph.erase_node(user)
    graph.erase_node(node)


def _times(graph: Graph, near: Node, length: Any, i: int) -> Any:
    return _computed(graph, near, operator.mul, length, i) if isinstance(length, Node) else length * i


def _computed(graph: Graph, near: Node, target: Any, *args: Any) -> Node:
    """A new node with its value, in the place of another in the user's code."""
    new = graph.call_function(target, args)
    new.meta = {key: near.meta[key] for key in ("nn_module_stack", "stack_trace") if key in near.meta}
    new.meta["val"] = target(*torch.fx.node.map_arg(args, lambda n: n.meta["val"]))
    return new


def _count_from_front(node: Node) -> None:
    """Bounds of a slice along a static dim as numbers from its start."""
    data, dim, *bounds = (*node.args, 0)[:4] if len(node.args) == 1 else node.args
    size = data.meta["val"].shape[dim]  # type: ignore[union-attr] # a tensor
    if not isinstance(size, int) or any(isinstance(b, Node) for b in bounds):
        return
    counted = [b + size if isinstance(b, int) and b < 0 else b for b in bounds[:2]]
    node.args = (data, dim, *[max(0, b) if isinstance(b, int) else b for b in counted], *bounds[2:])
