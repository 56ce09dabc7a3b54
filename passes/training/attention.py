"""Attention: where a program has it, and its queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.graph import module_path
from graphc.ir.program import Program

from ..importance.attention import FUSED, SOFTMAX, repeat_heads
from .taps import find_learned, packet

aten = torch.ops.aten
PRODUCT = (aten.matmul.default, aten.bmm.default)
"""Products whose first two operands are multiplied, rows of the first with columns of the second."""
OTHER_PRODUCT = (aten.einsum.default, aten.baddbmm.default)
"""Other products: of baddbmm the operands come after an added term, of einsum they are not read off."""
LAYOUT = (
    "to",
    "_to_copy",
    "clone",
    "contiguous",
    "dropout",
    "view",
    "reshape",
    "_unsafe_view",
    "expand",
    "unsqueeze",
    "squeeze",
)
"""Ops that leave the rows of logits or weights as they are."""
POINTWISE = ("mul", "div", "add", "sub", "neg", "tanh", "clamp", "maximum", "masked_fill", "where", *LAYOUT)
"""Ops between the product that makes logits and the softmax: scales, masks, biases, caps."""


@dataclass(frozen=True)
class Attention:
    """One attention of a program.

    Attributes:
        path: of the module that multiplies queries with keys.
        query, key, value: ``[batch, heads, tokens, size]``, ``[batch * heads, tokens, size]`` or
            with more dims between; keys and values may be of fewer heads.
        transposed: the key is ``[..., size, tokens]``.
    """

    path: str
    query: Node
    key: Node
    value: Node
    transposed: bool = False

    @property
    def nodes(self) -> tuple[str, str, str]:
        """Names of query, key and value, to be tapped."""
        return self.query.name, self.key.name, self.value.name

    def qkv(self, values: Sequence[torch.Tensor], batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of a run, each ``[batch, heads, tokens, size]``, of equally many heads.

        Args:
            values: of ``nodes``.
            batch: how many samples the run had.

        Raises:
            GraphError: the batch is not the outermost dim, or heads of keys do not divide those of queries.
        """
        query, key, value = values
        query = self._by_head(query, batch)
        key = self._by_head(key.transpose(-1, -2) if self.transposed else key, batch)
        value = self._by_head(value, batch)
        if query.shape[1] % key.shape[1]:
            raise self._refused(f"{query.shape[1]} heads of queries are not so many times {key.shape[1]} of keys")
        return query, repeat_heads(key, query), repeat_heads(value, query)

    def _by_head(self, value: torch.Tensor, batch: int) -> torch.Tensor:
        if value.dim() > 3 and value.shape[0] == 1:  # learned queries, the same for all samples
            value = value.expand(batch, *value.shape[1:])
        if value.dim() < 3 or value.shape[0] % batch:
            raise self._refused(f"a value is {list(value.shape)}, for {batch} samples")
        return value.reshape(batch, -1, *value.shape[-2:])

    def _refused(self, why: str) -> GraphError:
        return GraphError(f"queries, keys and values of {self.path!r} are not by sample and head", why=why)


def find_attention(program: Program) -> list[Attention]:
    """All attention of a program that is understood, in graph order, fused or not."""
    return [found for _, found in _read(program) if isinstance(found, Attention)]


def unread_attention(program: Program) -> dict[str, str]:
    """Why a softmax of the program is not read as attention, by module path."""
    return {path: found for path, found in _read(program) if isinstance(found, str)}


def find_attention_at(program: Program, path: str) -> Attention:
    """The attention of a module, or the only one within it; the last call of a module that is called several times.

    Raises:
        RecipeError: there is none, or there are several, or it is not understood.
    """
    places = {attention.path: attention for attention in find_attention(program)}
    within = [places[path]] if path in places else [a for a in places.values() if a.path.startswith(f"{path}.")]
    if len(within) == 1:
        return within[0]
    if within:
        raise RecipeError(
            f"the module {path!r} has {len(within)} attentions", hint=nearest(path, (a.path for a in within))
        )
    unread = {at: why for at, why in unread_attention(program).items() if f"{at}.".startswith(f"{path}.")}
    if unread:
        raise RecipeError(f"the attention of {path!r} is not understood", why=next(iter(unread.values())))
    raise RecipeError(f"the module {path!r} has no attention", hint=nearest(path, places))


def _read(program: Program) -> Iterator[tuple[str, Attention | str]]:
    """Each fused attention and each softmax with its module path: what it is, or why it is not understood."""
    learned = find_learned(program)
    for node in program.graph.nodes:
        if node.target is FUSED:
            yield module_path(node), _fused(node, learned)
        elif node.target in SOFTMAX:
            try:
                found = _around(node, learned)
                yield found.path, found
            except _UnreadError as error:
                yield module_path(node), str(error)


def _fused(node: Node, learned: set[Node]) -> Attention | str:
    query, key, value, *rest = node.args
    mask = rest[0] if rest else node.kwargs.get("attn_mask")
    if isinstance(mask, Node) and mask in learned:
        return f"its mask {mask.name} depends on the data by parameters"
    return Attention(module_path(node), query, key, value)  # type: ignore[arg-type] # values, by the schema


class _UnreadError(GraphError):
    """Why a softmax is not read as attention."""


def _around(softmax: Node, learned: set[Node]) -> Attention:
    """The attention whose weights a softmax gives."""
    logits = softmax.args[0]
    assert isinstance(logits, Node)
    rank = len(logits.meta["val"].shape)
    if int(softmax.args[1]) % rank != rank - 1:  # type: ignore[arg-type] # a dim, by the schema
        raise _UnreadError("the softmax is not over the last dim")
    made = _product(logits, learned)
    query, key = _operands(made)
    used = list(dict.fromkeys(_uses(softmax)))
    if len(used) != 1:
        raise _UnreadError(f"its weights enter {len(used)} matrix products, not one")
    weights, value = _operands(used[0])
    if weights not in _below(softmax):
        raise _UnreadError(f"its weights are the second operand of {used[0].name}")
    source = _untransposed(key)
    return Attention(module_path(made), query, source or key, value, transposed=source is None)


def _operands(product: Node) -> tuple[Node, Node]:
    if product.target is aten.baddbmm.default:
        first, second = product.args[1:3]
    elif product.target in PRODUCT:
        first, second = product.args[:2]
    else:
        raise _UnreadError(f"the operands of {product.target} are not read off")
    return first, second  # type: ignore[return-value] # values, by the schema


def _product(logits: Node, learned: set[Node]) -> Node:
    """The one product that logits are made of; what is added to it must not depend on the data."""
    sources = list(dict.fromkeys(_sources(logits, learned)))
    products = [node for node in sources if node.target in (*PRODUCT, *OTHER_PRODUCT)]
    others = [node for node in sources if node not in products]
    if not products:
        raise _UnreadError("no product of queries and keys enters the softmax")
    if len(products) > 1:
        raise _UnreadError(f"its logits are made of {len(products)} products: {', '.join(n.name for n in products)}")
    if others:
        raise _UnreadError(f"its logits are not of {products[0].name} alone: {others[0].name} depends on the data too")
    return products[0]


def _sources(node: Node, learned: set[Node]) -> Iterator[Node]:
    """The values that pointwise ops make a value of, and that depend on inputs and parameters."""
    if node not in learned:
        return
    if packet(node) not in POINTWISE:
        yield node
        return
    for source in node.all_input_nodes:
        yield from _sources(source, learned)


def _below(softmax: Node) -> Mapping[Node, None]:
    """The weights, and what dropout, casts, masks and views make of them."""
    found = {softmax: None}
    stack = [softmax]
    while stack:
        for user in stack.pop().users:
            if packet(user) in POINTWISE and user not in found:
                found[user] = None
                stack.append(user)
    return found


def _uses(softmax: Node) -> Iterator[Node]:
    """The products that the weights enter."""
    for node in _below(softmax):
        yield from (user for user in node.users if user.target in (*PRODUCT, *OTHER_PRODUCT))


def _untransposed(key: Node) -> Node | None:
    """What a key was before its last two dims were swapped; None if they were not."""
    rank = len(key.meta["val"].shape)
    last = {rank - 2, rank - 1}
    swapped = False
    if key.target is aten.transpose.int:
        swapped = {int(dim) % rank for dim in key.args[1:3]} == last  # type: ignore[arg-type] # dims, by the schema
    elif key.target is aten.permute.default:
        order = [int(dim) % rank for dim in key.args[1]]  # type: ignore[union-attr,arg-type] # dims, by the schema
        swapped = order == [*range(rank - 2), rank - 1, rank - 2]
    source = key.args[0] if swapped else None
    return source if isinstance(source, Node) else None
