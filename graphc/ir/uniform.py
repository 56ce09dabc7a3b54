"""Uniform values: what a constant makes, each held as small as it is, of size 1 where it is alike along a dim.

A constant that fills an input of any batch and length makes values that are alike along these dims, until an op works
along one of them or meets a value that is not constant. The small form of a value broadcasts to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.nn import Parameter

from graphc.ir.edit import evaluate, unused_name
from graphc.ir.graph import attribute
from graphc.ir.program import Program
from graphc.ir.shapes import kind
from graphc.ir.sizes import Sizes

aten = torch.ops.aten

POINTWISE = {
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.__xor__.Tensor,
    aten.__and__.Scalar,
    aten.__or__.Scalar,
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.contiguous.default,
    aten.full_like.default,
    aten.ones_like.default,
    aten.type_as.default,
    aten.zeros_like.default,
}
"""Ops that work along no dim, besides those that torch marks as pointwise."""

REARRANGING = {
    aten.permute.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
}
"""Ops that move whole dims: the small form of the result is that of the small form."""

MOVING = {
    aten.expand.default,
    aten.flatten.using_ints,
    aten.flip.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.repeat.default,
    aten.reshape.default,
    aten.roll.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.unflatten.int,
    aten.view.default,
}
"""Ops whose result has only entries of the first operand: of one number everywhere they make that number everywhere."""

LAST = lambda node: [-1]  # noqa: E731 - a table reads better so

ALONG: Mapping[Any, tuple[int, Callable[[Node], Iterable[int]]]] = {
    aten.addmm.default: (1, LAST),
    aten.amax.default: (0, lambda node: _dims(node, 1)),
    aten.amin.default: (0, lambda node: _dims(node, 1)),
    aten.cumsum.default: (0, lambda node: _dims(node, 1)),
    aten.embedding.default: (1, lambda node: ()),
    aten.layer_norm.default: (0, lambda node: range(-len(node.args[1]), 0)),  # type: ignore[arg-type]
    aten.linear.default: (0, LAST),
    aten.log_softmax.int: (0, lambda node: _dims(node, 1)),
    aten.mean.dim: (0, lambda node: _dims(node, 1)),
    aten.rms_norm.default: (0, lambda node: range(-len(node.args[1]), 0)),  # type: ignore[arg-type]
    aten.select.int: (0, lambda node: _dims(node, 1)),
    aten.slice.Tensor: (0, lambda node: _dims(node, 1)),
    aten.softmax.int: (0, lambda node: _dims(node, 1)),
    aten.sum.dim_IntList: (0, lambda node: _dims(node, 1)),
}
"""Ops that work along some dims of one operand: its position, and these dims. The others are whole constants."""


@dataclass(frozen=True)
class Small:
    """The small form of a value, and whether it follows from parameters."""

    value: torch.Tensor
    learned: bool = False


def fold(program: Program, graph: Graph, start: Node, value: torch.Tensor, sizes: Sizes) -> dict[str, torch.Tensor]:
    """Let constants take the place of an input and of all that follows from it alone; gives them by name.

    What follows from parameters is one too. The node of the input is left without users.

    Args:
        program: has the values of its constants.
        graph: a copy of the program's, whose nodes have the same names; is changed.
        start: the input, in the program's graph.
        value: its small form.
        sizes: of the copy.
    """
    known = _follow(program, start, value)
    nodes = {node.name: node for node in graph.nodes}
    made: dict[str, torch.Tensor] = {}
    for node, small in known.items():
        name = unused_name(f"folded_{node.name}", {*program.tensors(), *made})
        with graph.inserting_before(_first(sizes) if node is start else nodes[node.name]):
            constant = graph.create_node("get_attr", name, name=name)
        constant.meta = dict(node.meta)
        left = [user for user in node.users if node is start or user not in known]
        users = {nodes[user.name]: _takes_small(user, node, small.value, known) for user in left}
        _use(constant, nodes[node.name], small.value, users, sizes)
        if constant.users:
            made[name] = Parameter(small.value) if small.learned else small.value
        else:
            graph.erase_node(constant)
    return made


def _use(constant: Node, node: Node, small: torch.Tensor, users: Mapping[Node, bool], sizes: Sizes) -> None:
    """Let users read a constant in place of a node: as it is, or spread to the node's shape where that can be said."""
    whole = node.meta["val"].shape
    same = all(map(_is_whole, small.shape, whole))
    spread: Node | None = None
    for user, takes_small in users.items():
        if takes_small or same:
            user.replace_input_with(node, constant)
            continue
        shape = sizes.of([-1 if _is_whole(*pair) else pair[1] for pair in zip(small.shape, whole, strict=True)])
        if shape is None:
            continue
        if spread is None:
            with constant.graph.inserting_after(constant):
                spread = constant.graph.call_function(aten.expand.default, (constant, shape))
            spread.meta = dict(node.meta)
        user.replace_input_with(node, spread)


def _first(sizes: Sizes) -> Node:
    """The first node after the inputs and the sizes that are read off them before everything else."""
    node: Node = sizes.last.next
    while node in sizes.nodes.values():
        node = node.next
    return node


def _is_whole(have: int, size: Any) -> bool:
    return type(size) is int and size == have


def _takes_small(user: Node, node: Node, small: torch.Tensor, known: Mapping[Node, Small]) -> bool:
    """Does an op give the same for the small form of an operand, as others have all of its dims?"""
    if not _is_pointwise(user):
        return False
    result = user.meta["val"].shape
    others = [n.meta["val"].shape for n in user.all_input_nodes if n not in known and _is_tensor(n)]
    for i in range(-small.dim(), 0):
        whole = _is_whole(small.shape[i], node.meta["val"].shape[i])
        if not whole and not any(len(o) >= -i and kind(o[i]) == kind(result[i]) for o in others):
            return False
    return True


def _follow(program: Program, start: Node, value: torch.Tensor) -> dict[Node, Small]:
    """The small forms of all values that follow from one and from tensors of the program."""
    known = {start: Small(value)}
    for node in program.graph.nodes:
        if node.op == "call_function" and any(n in known for n in node.all_input_nodes):
            found = _small(program, node, known)
            if found is not None and _broadcasts(found.value, node.meta["val"]):
                known[node] = found
    return known


def _broadcasts(small: torch.Tensor, whole: Any) -> bool:
    """Is one of the dtype and number of dims of the other, and of size 1 where it is not as large?"""
    alike = _is_tensor_value(whole) and small.dtype == whole.dtype and small.dim() == whole.dim()
    return alike and all(
        have == 1 or _is_whole(have, size) for have, size in zip(small.shape, whole.shape, strict=True)
    )


def _small(program: Program, node: Node, known: Mapping[Node, Small]) -> Small | None:
    """The small form of a value; None if it cannot be said."""
    first = node.args[0] if node.args else None
    if node.target in MOVING and isinstance(first, Node) and first in known and known[first].value.numel() == 1:
        return Small(known[first].value.reshape([1] * node.meta["val"].dim()), known[first].learned)
    if not _works_on_small(node, known):
        return None
    operands = {n: known[n] if n in known else _constant(program, n) for n in node.all_input_nodes}
    values = {n: operand.value for n, operand in operands.items() if operand is not None}
    if len(values) < len(operands):
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.target is aten.cat.default:
        parts, *dim = (list(args[0]), *args[1:])  # type: ignore[arg-type] # tensors
        args = (_of_one_shape(parts, *dim), *dim)  # type: ignore[arg-type] # a number
    with torch.no_grad():
        value = node.target(*args, **kwargs)  # type: ignore[operator] # a function: the graph has no other calls
    learned = value.is_floating_point() and any(o.learned for o in operands.values() if o is not None)
    return Small(value, learned)


def _of_one_shape(parts: Sequence[torch.Tensor], dim: int = 0) -> list[torch.Tensor]:
    """Parts that are to be joined along a dim, as large as each other in all others."""
    others = torch.broadcast_shapes(*(part.select(dim, 0).unsqueeze(dim).shape for part in parts))  # type: ignore[no-untyped-call] # torch has no types for it
    return [
        part.expand([part.shape[dim] if i == dim % part.dim() else n for i, n in enumerate(others)]) for part in parts
    ]


def _works_on_small(node: Node, known: Mapping[Node, Small]) -> bool:
    """Does an op give the small form of its result for the small forms of its operands?"""
    if _is_pointwise(node) or node.target in REARRANGING:
        return True
    if node.target is aten.cat.default:
        dim: Any = node.args[1] if len(node.args) > 1 else 0
        return all(
            _is_whole(known[n].value.shape[dim], n.meta["val"].shape[dim]) for n in node.all_input_nodes if n in known
        )
    if node.target not in ALONG:
        return False
    position, along = ALONG[node.target]
    for place, operand in enumerate(node.args):
        if isinstance(operand, Node) and operand in known:
            small, whole = known[operand].value.shape, operand.meta["val"].shape
            dims = along(node) if place == position else range(len(whole))
            if not all(_is_whole(small[dim], whole[dim]) for dim in dims):
                return False
    return True


def _is_pointwise(node: Node) -> bool:
    tags = node.target.tags if isinstance(node.target, torch._ops.OpOverload) else ()
    return node.target in POINTWISE or (torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags)


def _constant(program: Program, node: Node) -> Small | None:
    """A tensor that follows from those of the program alone; None if it does not."""
    found: set[Node] = set()
    left = [node]
    while left:
        one = left.pop()
        if one in found:
            continue
        if one.op not in ("get_attr", "call_function") or one.is_impure():
            return None
        found.add(one)
        left += one.all_input_nodes
    value = evaluate(program, [node])[node]
    learned = any(
        one.op == "get_attr" and isinstance(attribute(program.module, str(one.target)), Parameter) for one in found
    )
    return Small(value.detach(), learned) if isinstance(value, torch.Tensor) else None


def _dims(node: Node, position: int) -> Iterable[int]:
    """The dims that an op is given; all if it is given none."""
    given: Any = node.args[position] if len(node.args) > position else None
    dims = [given] if isinstance(given, int) else given
    return dims or range(node.all_input_nodes[0].meta["val"].dim())


def _is_tensor(node: Node) -> bool:
    return _is_tensor_value(node.meta.get("val"))


def _is_tensor_value(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
