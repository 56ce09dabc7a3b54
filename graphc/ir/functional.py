"""In-place ops become their functional twins; a write through a view is written back to its base."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.errors import CaptureError
from graphc.ir.graph import source_line

aten = torch.ops.aten
COUNTER = "num_batches_tracked"
END = 2**63 - 1
"""Where torch ends a slice that has no end."""
UNDECLARED = {aten.einsum.default, aten.type_as.default}
"""Ops that may return a view although their schema does not say so."""


class _Memory:
    """Who shares memory with whom, and in which order the nodes ran before anything was rewritten."""

    def __init__(self, graph: Graph) -> None:
        self.order: dict[Node, int] = {}
        self.shared: dict[Any, list[Node]] = {}
        for i, node in enumerate(graph.nodes):
            self.add(node, i)

    def add(self, node: Node, now: int) -> None:
        self.order[node] = now
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            self.shared.setdefault(value.untyped_storage()._cdata, []).append(node)

    def sharing(self, node: Node) -> list[Node]:
        value = node.meta.get("val")
        return self.shared[value.untyped_storage()._cdata] if isinstance(value, torch.Tensor) else []

    def used_after(self, node: Node, now: int) -> bool:
        return any(self.order[user] > now for user in node.users)

    def seen_after(self, view: Node, now: int) -> bool:
        """The node, or a view of it, is used later."""
        return self.used_after(view, now) or any(_is_view(u) and self.seen_after(u, now) for u in view.users)

    def use_from_now_on(self, old: Node, new: Node, now: int) -> None:
        for user in list(old.users):
            if self.order[user] > now:
                user.replace_input_with(old, new)


def make_functional(graph: Graph) -> None:
    """Replace every op that writes into its first argument.

    A model that writes into its own inputs becomes a program that leaves them alone.

    Raises:
        CaptureError: the written tensor is seen through another view, or is a buffer of the model.
    """
    memory = _Memory(graph)
    for node in list(graph.nodes):
        if _writes(node):
            _replace(graph, node, memory)


def _writes(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return False
    arguments = node.target._schema.arguments
    info = arguments[0].alias_info if arguments else None
    return info is not None and info.is_write


def source_of(node: Node) -> Node | None:
    """The node that this one is a view of; None if it owns its memory."""
    if node.target is operator.getitem:
        whole = node.args[0]
        return whole if isinstance(whole, Node) and source_of(whole) is not None else None
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.arguments:
        return None
    info = node.target._schema.arguments[0].alias_info
    if (info is not None and not info.is_write) or node.target in UNDECLARED:
        return next(iter(node.all_input_nodes), None)
    return None


def _is_view(node: Node) -> bool:
    return source_of(node) is not None


def is_whole_slice(node: Node) -> bool:
    """A slice that takes everything."""
    if node.target is not aten.slice.Tensor:
        return False
    start, end, step = (*node.args[2:], *(None, None, None)[len(node.args) - 2 :])[:3]
    return start in (None, 0) and end in (None, END) and step in (None, 1)


def _chain(node: Node) -> list[Node]:
    """The written value, then what it is a view of, up to the tensor that owns the memory."""
    chain = [node]
    while (source := source_of(chain[-1])) is not None:
        chain.append(source)
    return chain


def _twin(node: Node) -> Any:
    packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
    name = packet.replace("__i", "__") if packet.startswith("__i") else packet.removesuffix("_")
    twin = getattr(aten, name, None)
    if twin is None or overload not in twin.overloads():
        raise _refused(node, f"aten.{packet} has no functional twin")
    return getattr(twin, overload)


def _refused(node: Node, why: str) -> CaptureError:
    return CaptureError(
        f"cannot make the in-place op {node.target} functional",
        where=f"{node.name}, {source_line(node) or 'no source line'}",
        why=why,
        hint="write the op out of place in the model (x = x.relu() instead of x.relu_())",
    )


def _replace(graph: Graph, node: Node, memory: _Memory) -> None:
    written = node.args[0]
    assert isinstance(written, Node)
    now = memory.order[node]
    chain = _chain(written)
    owner = chain[-1]
    if owner.op == "get_attr":
        if not str(owner.target).endswith(COUNTER):
            raise _refused(node, f"it writes into {owner.target}, a tensor that the model keeps between calls")
        node.replace_all_uses_with(written)
        graph.erase_node(node)
        return
    _check_other_views(node, chain, memory)
    with graph.inserting_before(node):
        new = _functional(graph, node, written, memory)
        node.replace_all_uses_with(new)
        memory.use_from_now_on(written, new, now)
        for i in range(1, len(chain)):
            if not any(memory.used_after(base, now) for base in chain[i:]):
                break
            new = _write_back(graph, node, chain[i], chain[i - 1], new)
            memory.add(new, now)
            memory.use_from_now_on(chain[i], new, now)
    memory.shared[node.meta["val"].untyped_storage()._cdata].remove(node)
    graph.erase_node(node)


def _functional(graph: Graph, node: Node, written: Node, memory: _Memory) -> Node:
    """The twin of an in-place op; cast where only writing in place kept the dtype."""
    new = graph.call_function(_twin(node), node.args, node.kwargs)
    new.meta = dict(node.meta)
    value = written.meta["val"]
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    with value.fake_mode, torch.no_grad(), value.fake_mode.shape_env.suppress_guards():
        result = new.target(*args, **kwargs)  # type: ignore[operator] # an op overload
    if result.dtype != value.dtype:
        new.meta["val"] = result
        memory.add(new, memory.order[node])
        new = graph.call_function(aten.to.dtype, (new, value.dtype))
        new.meta = dict(node.meta)
    memory.add(new, memory.order[node])
    return new


def _check_other_views(node: Node, chain: list[Node], memory: _Memory) -> None:
    """Nobody looks at the written memory later through a view that was made before."""
    now = memory.order[node]
    for base, known in zip(chain, [None, *chain], strict=False):
        several = isinstance(base.meta.get("val"), (list, tuple))
        for user in base.users if not several else ():
            if user is not known and memory.order[user] < now and _is_view(user) and memory.seen_after(user, now):
                raise _refused(node, f"{user.name} is another view of the same memory and is used afterwards")
    for other in memory.sharing(chain[0]):
        if memory.order[other] < now and memory.used_after(other, now) and _chain(other)[-1] is not chain[-1]:
            raise _refused(node, f"{other.name} shares its memory and is used afterwards")


def _write_back(graph: Graph, node: Node, base: Node, view: Node, new: Node) -> Node:
    """The base with the new value at the view's place."""
    rest = view.args[1:]
    if is_whole_slice(view):
        return new
    if view.target is aten.slice.Tensor:
        result = graph.call_function(aten.slice_scatter.default, (base, new, *rest))
    elif view.target is aten.select.int:
        result = graph.call_function(aten.select_scatter.default, (base, new, *rest))
    elif view.target is aten.unsqueeze.default:
        result = graph.call_function(aten.squeeze.dim, (new, *rest))
    elif view.target in (aten.transpose.int, aten.t.default):
        result = graph.call_function(view.target, (new, *rest))
    elif view.target is aten.permute.default:
        rank = len(base.meta["val"].shape)
        order = [int(dim) % rank for dim in rest[0]]  # type: ignore[union-attr,arg-type] # a list by the schema
        result = graph.call_function(aten.permute.default, (new, [order.index(i) for i in range(rank)]))
    elif view.target is aten.view.default:
        result = graph.call_function(aten.view_as.default, (new, base))
    elif view.target in (aten.alias.default, aten.detach.default):
        return new
    else:
        through = "one of several parts" if view.target is operator.getitem else str(view.target)
        raise _refused(node, f"it writes through {through} into {base.name}, which is used afterwards")
    result.meta = dict(base.meta)
    return result
