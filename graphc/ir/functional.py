"""In-place ops become their functional twins; a write through a view is written back to its base."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.errors import CaptureError

aten = torch.ops.aten
COUNTER = "num_batches_tracked"


def make_functional(graph: Graph) -> None:
    """Replace every op that writes into its first argument.

    Raises:
        CaptureError: the written tensor is seen through another view, or is a buffer of the model.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if _writes(node):
            _replace(graph, node, order)


def _writes(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return False
    arguments = node.target._schema.arguments
    info = arguments[0].alias_info if arguments else None
    return info is not None and info.is_write


def _is_view(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.arguments:
        return False
    info = node.target._schema.arguments[0].alias_info
    return info is not None and not info.is_write


def _twin(node: Node) -> Any:
    packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
    twin = getattr(aten, packet.removesuffix("_"), None)
    if twin is None or overload not in twin.overloads():
        raise _refused(node, f"aten.{packet} has no functional twin")
    return getattr(twin, overload)


def _refused(node: Node, why: str) -> CaptureError:
    stack = [line for line in (node.meta.get("stack_trace") or "").splitlines() if "File" in line]
    return CaptureError(
        f"cannot make the in-place op {node.target} functional",
        where=f"{node.name}, {stack[-1].strip() if stack else 'no source line'}",
        why=why,
        hint="write the op out of place in the model (x = x.relu() instead of x.relu_())",
    )


def _replace(graph: Graph, node: Node, order: dict[Node, int]) -> None:
    written = node.args[0]
    assert isinstance(written, Node)
    now = order[node]
    if written.op == "get_attr":
        if not str(written.target).endswith(COUNTER):
            raise _refused(node, f"it writes into {written.target}, a tensor that the model keeps between calls")
        node.replace_all_uses_with(written)
        graph.erase_node(node)
        return
    chain = _chain(written)
    for base, view in zip(chain[1:], chain, strict=False):
        _check_other_views(node, base, view, now, order)
    _check_other_views(node, written, None, now, order)
    with graph.inserting_before(node):
        new = graph.call_function(_twin(node), node.args, node.kwargs)
        new.meta = dict(node.meta)
        order[new] = now
        node.replace_all_uses_with(new)
        _use_from_now_on(written, new, now, order)
        for base, view in zip(chain[1:], chain, strict=False):
            if not any(_used_later(b, now, order) for b in chain[chain.index(base) :]):
                break
            new = _write_back(graph, node, base, view, new)
            order[new] = now
            _use_from_now_on(base, new, now, order)
    graph.erase_node(node)


def _chain(node: Node) -> list[Node]:
    """The written value, then what it is a view of, up to the tensor that owns the memory."""
    chain = [node]
    while _is_view(chain[-1]):
        source = chain[-1].args[0]
        assert isinstance(source, Node)
        chain.append(source)
    return chain


def _used_later(node: Node, now: int, order: dict[Node, int]) -> bool:
    return any(order[user] > now for user in node.users)


def _check_other_views(node: Node, base: Node, known: Node | None, now: int, order: dict[Node, int]) -> None:
    for user in base.users:
        if user is not known and order[user] < now and _is_view(user) and _seen_later(user, now, order):
            raise _refused(node, f"{user.name} is another view of the same memory and is used afterwards")


def _seen_later(view: Node, now: int, order: dict[Node, int]) -> bool:
    return _used_later(view, now, order) or any(_is_view(u) and _seen_later(u, now, order) for u in view.users)


def _use_from_now_on(old: Node, new: Node, now: int, order: dict[Node, int]) -> None:
    for user in list(old.users):
        if order[user] > now:
            user.replace_input_with(old, new)


def _write_back(graph: Graph, node: Node, base: Node, view: Node, new: Node) -> Node:
    """The base with the new value at the view's place."""
    rest = view.args[1:]
    if view.target is aten.slice.Tensor:
        result = graph.call_function(aten.slice_scatter.default, (base, new, *rest))
    elif view.target is aten.select.int:
        result = graph.call_function(aten.select_scatter.default, (base, new, *rest))
    elif view.target is aten.unsqueeze.default:
        result = graph.call_function(aten.squeeze.dim, (new, *rest))
    elif view.target is aten.transpose.int:
        result = graph.call_function(aten.transpose.int, (new, *rest))
    elif view.target in (aten.alias.default, aten.detach.default):
        return new
    else:
        raise _refused(node, f"it writes through {view.target} into {base.name}, which is used afterwards")
    result.meta = dict(base.meta)
    return result
