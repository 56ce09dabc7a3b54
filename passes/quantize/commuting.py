"""How factors for each unit go through an op: a line an op.

A rule takes what is known of an op's inputs and results, and gives the maps (see ``ties``) that all of them
have if the op is to compute the same as before but for the factors.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.fx import Node

from graphc.rules.operation import hint

from ..affine import FORMS
from .factors import Claims, Look, NoSeamError, Row, is_real, lead, listed, sizes
from .movement import Movement

aten = torch.ops.aten


def _aligned(look: Look, nodes: Sequence[Node]) -> Claims:
    """Values that broadcast to the last of them, all with the same factors."""
    rank = len(sizes(nodes[-1]))
    units = look.merged([None if (u := look.units(n)) is None else lead(u, rank) for n in nodes])
    if units is None:
        return
    for node in nodes:
        units = look.ties.merge(units, lead(look.ties.fit(units, sizes(node)), rank))
    yield from ((node, look.power, look.ties.fit(units, sizes(node))) for node in nodes)


def _like(look: Look, mixed: int = 0) -> Claims:
    """Entry by entry; or the last ``mixed`` dims are mixed and no factor depends on these."""
    source = look.arg(0)
    maps = [look.units(source), look.units(look.node)]
    units = look.merged([None if u is None else look.ties.along(u, range(u.dim() - mixed)) for u in maps])
    if units is not None:
        yield source, look.power, units
        yield look.node, look.power, units


def _filled(look: Look) -> Claims:
    """Some entries become a number, which must be zero."""
    if look.arg(2) != 0:
        raise NoSeamError(look.node, f"writes {look.arg(2)} into the value")
    return _like(look)


def _clamped(look: Look) -> Claims:
    """Bounds that are zero; others are tensors first (``bounds``)."""
    numbers = [n for n in look.node.args[1:] if n is not None and n != 0]
    if numbers:
        raise NoSeamError(look.node, f"{look.node.target} at {numbers[0]}")
    return _like(look)


def _padded(look: Look) -> Claims:
    """Zeros, or values from beside, around the last dims."""
    general = look.node.target is aten.pad.default
    value = look.arg(3 if general else 2, 0)
    if value and (not general or look.arg(2, "constant") == "constant"):
        raise NoSeamError(look.node, f"pads with {value}")
    return _like(look, len(look.arg(1)) // 2)


def _reduced(look: Look) -> Claims:
    """Sums and the like over dims on which no factor depends."""
    source, dims, keep = look.arg(0), look.arg(1), look.arg(2, False)
    rank = len(sizes(source))
    over = {d % rank for d in listed([dims])} if dims is not None and dims != [] else set(range(rank))
    kept = [i for i in range(rank) if i not in over]
    before, after = look.units(source), look.units(look.node)
    if after is not None and not keep:
        after = after.reshape([1 if i in over else after.shape[kept.index(i)] for i in range(rank)])
    units = look.merged([None if before is None else look.ties.along(before, kept), after])
    if units is not None:
        yield source, look.power, units
        yield look.node, look.power, units if keep else units.reshape([units.shape[i] for i in kept])


def _alike(look: Look) -> Claims:
    """Sums, choices: all addends have the factors of the result."""
    numbers = [a for a in look.node.args if isinstance(a, (int, float)) and not isinstance(a, bool) and a != 0]
    if numbers:
        raise NoSeamError(look.node, f"{look.node.target} with the number {numbers[0]}")
    return _aligned(look, [*(a for a in look.node.all_input_nodes if is_real(a)), look.node])


def _taken(look: Look, candidates: Sequence[Node]) -> Node | None:
    """Which of the operands that are multiplied has the factors of the result."""
    marked = [c for c in candidates if look.units(c) is not None]
    if not marked and look.units(look.node) is not None:
        near = [c for c in candidates if c in look.reach]
        if not near:
            raise NoSeamError(look.node, "none of its operands can take the factors")
        marked = [min(near, key=look.reach.__getitem__)]
    if marked and list(candidates).count(marked[0]) > 1:
        raise NoSeamError(look.node, "multiplies a value with itself")
    return marked[0] if marked else None


def _times(look: Look, places: Sequence[int] = (0, 1)) -> Claims:
    """Products: one of the operands has the factors of the result."""
    taken = _taken(look, [look.arg(i) for i in places if is_real(look.arg(i))])
    return iter(()) if taken is None else _aligned(look, [taken, look.node])


def _matmul(look: Look) -> Claims:
    """Products of matrices: with a weight, factors of what is summed over end; else an operand hands them on."""
    left, right = look.node.args[:2]
    assert isinstance(left, Node)
    assert isinstance(right, Node)
    if min(len(sizes(left)), len(sizes(right))) < 2:
        raise NoSeamError(look.node, "multiplies with a vector")
    if right not in look.constants or len(sizes(left)) < len(sizes(right)):
        taken = _taken(look, [left, right])
        if taken is not None:
            yield from _handed_on(look, taken, -1 if taken is left else -2)
        return
    data, rank = look.units(left), len(sizes(right))
    if data is not None:
        start = data.dim() - rank
        data = look.ties.along(data, [*range(start, data.dim() - 2), data.dim() - 1])
        yield left, look.power, data
        yield right, -look.power, data.reshape(data.shape[start:]).transpose(-1, -2)
    if look.units(look.node) is not None:
        yield from _handed_on(look, right, -2)


def _handed_on(look: Look, operand: Node, summed: int) -> Claims:
    """An operand and the result, with factors that depend on no dim that is summed over, or that it has not."""
    rank, own = len(sizes(look.node)), len(sizes(operand))
    kept = [i for i in range(rank - own, rank) if i != rank + summed]
    maps = [
        None if (u := look.units(n)) is None else look.ties.along(lead(u, rank), kept) for n in (operand, look.node)
    ]
    units = look.merged(maps)
    if units is not None:
        yield operand, look.power, units.reshape(units.shape[rank - own :])
        yield look.node, look.power, units


def _layer(look: Look) -> Claims:
    """Convolutions and linear layers: factors of the data end in columns of the weight, those of the result in rows."""
    form = FORMS[look.node.target]
    data, weight = look.arg(form.data), look.arg(form.weight)
    bias = look.arg(form.bias) if form.bias is not None else None
    if look.node.kwargs:
        raise NoSeamError(look.node, "multiplies its addends by numbers")
    groups = 1 if form.groups is None else look.arg(form.groups, 1)
    dim = form.unit_dim(look.node)
    for node, sign, place in ((data, -1, form.columns), (look.node, 1, form.rows)):
        units = look.units(node)
        if units is None:
            continue
        units = look.ties.along(units, [dim])
        vector = units.flatten().expand(sizes(node)[dim])
        yield node, look.power, units
        yield weight, sign * look.power, form.spread(vector, sizes(weight), groups, place)
        if node is look.node and isinstance(bias, Node):
            yield bias, look.power, look.ties.fit(lead(vector, max(1, len(sizes(bias)))), sizes(bias))


def _gain(look: Look, weight: int, channels: bool) -> Claims:
    """Norms: factors of the result end in gain and shift, which stand at ``weight`` and behind."""
    units, gain, shift = look.units(look.node), look.arg(weight), look.arg(weight + 1)
    if units is None:
        return
    if not isinstance(gain, Node):
        raise NoSeamError(look.node, "a norm without a gain")
    if channels:
        units = look.ties.along(units, [1])
        own = units.flatten()
    else:
        own = look.ties.fit(units, sizes(gain))
        units = lead(own, units.dim())
    yield look.node, look.power, units
    for tensor in (gain, shift):
        if isinstance(tensor, Node):
            yield tensor, look.power, own


def _attention(look: Look) -> Claims:
    """The result has the factors of the values, head by head, those of grouped queries repeated."""
    value, rank = look.arg(2), len(sizes(look.node))
    kept = [i for i in range(rank) if i != rank - 2]
    maps = [None if (u := look.units(n)) is None else look.ties.along(u, kept) for n in (value, look.node)]
    if maps == [None, None]:
        return
    one = [1 if i == rank - 2 else n for i, n in enumerate(sizes(value))]
    repeats = sizes(look.node)[-3] // one[-3]
    heads = Movement(one, [partial(torch.repeat_interleave, repeats=repeats, dim=-3)])
    before, (after,) = heads.maps(look.ties, maps[0], maps[1:])
    yield value, look.power, before
    yield look.node, look.power, after


def _embedded(look: Look) -> Claims:
    """Rows of a table."""
    units = look.units(look.node)
    if units is not None:
        units = look.ties.along(units, [units.dim() - 1])
        yield look.node, look.power, units
        yield look.arg(0), look.power, units.reshape(1, -1)


def _moved(look: Look) -> Claims:
    """Entries of the first argument, in one result or in several."""
    node = look.node
    several = isinstance(node.meta["val"], (list, tuple))
    results = [u for u in node.users if u.target is operator.getitem] if several else [node]
    rest, named = torch.fx.node.map_arg((node.args[1:], node.kwargs), lambda n: hint(n.meta["val"]))

    op: Any = aten.reshape.default if node.target is aten.view.default else node.target

    def move(places: torch.Tensor, result: Node) -> torch.Tensor:
        moved = op(places, *rest, **named)
        return moved[result.args[1]] if several else moved  # type: ignore[no-any-return] # a tensor

    return look.moved(look.arg(0), [partial(move, result=r) for r in results], results)


def _joined(look: Look) -> Claims:
    """Several values side by side: each is a part of the result."""
    parts, dim = look.arg(0), look.arg(1, 0)
    if look.node.target is aten.stack.default:
        return look.moved(look.node, [partial(torch.select, dim=dim, index=i) for i in range(len(parts))], parts)
    ends = list(accumulate((sizes(part)[dim] for part in parts), initial=0))
    moves = [partial(torch.narrow, dim=dim, start=a, length=b - a) for a, b in pairwise(ends)]
    return look.moved(look.node, moves, parts)


LIKE = """
relu.default leaky_relu.default prelu.default dropout.default feature_dropout.default clone.default contiguous.default
neg.default abs.default alias.default detach.default to.dtype to.device _to_copy.default mul.Scalar div.Scalar
""".split()
MOVES = """
view.default _unsafe_view.default reshape.default flatten.using_ints unflatten.int ravel.default permute.default
transpose.int t.default numpy_T.default mT.default movedim.int movedim.intlist unsqueeze.default squeeze.default
squeeze.dim squeeze.dims expand.default repeat.default repeat_interleave.self_int slice.Tensor select.int
narrow.default split.Tensor split_with_sizes.default unbind.int chunk.default flip.default roll.default
pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default native_channel_shuffle.default
""".split()
ALIKE = "add.Tensor sub.Tensor maximum.default minimum.default max.other min.other clamp.Tensor".split()
REDUCED = "mean.dim sum.dim_IntList amax.default amin.default".split()
MIXED = {
    1: "avg_pool1d max_pool1d adaptive_avg_pool1d upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d",
    2: "avg_pool2d max_pool2d adaptive_avg_pool2d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d "
    "upsample_bicubic2d",
    3: "avg_pool3d max_pool3d adaptive_avg_pool3d upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d",
}
"""Ops that mix so many of the last dims."""


def _op(name: str) -> Any:
    packet, overload = name.split(".")
    return getattr(getattr(aten, packet), overload)


def _overloads(name: str) -> list[Any]:
    return [_op(f"{name}.{way}") for way in ("default", *(["vec"] if "upsample" in name else []))]


ROWS: dict[Any, Row] = {
    **{_op(name): Row(_like, (0,)) for name in LIKE},
    **{
        op: Row(partial(_like, mixed=n), (0,))
        for n, names in MIXED.items()
        for x in names.split()
        for op in _overloads(x)
    },
    **{_op(name): Row(_moved, (0,)) for name in MOVES},
    **{_op(name): Row(_alike, range(3)) for name in ALIKE},
    **{_op(name): Row(_reduced, (0,)) for name in REDUCED},
    **{op: Row(_layer, (form.weight,)) for op, form in FORMS.items()},
    **{_op(f"{name}.default"): Row(_matmul, (0, 1), any=True) for name in ("matmul", "bmm", "mm")},
    **dict.fromkeys((aten.cat.default, aten.stack.default), Row(_joined, (0,))),
    **dict.fromkeys((aten.constant_pad_nd.default, aten.pad.default), Row(_padded, (0,))),
    **{_op(f"{name}.default"): Row(_clamped, (0,)) for name in ("clamp", "clamp_min", "clamp_max")},
    aten.masked_fill.Scalar: Row(_filled, (0,)),
    aten.where.self: Row(_alike, (1, 2)),
    aten.mul.Tensor: Row(_times, (0, 1), any=True),
    aten.div.Tensor: Row(partial(_times, places=(0,)), (0,)),
    **{_op(f"{x}_norm.default"): Row(partial(_gain, weight=2, channels=False), (2,)) for x in ("layer", "rms")},
    aten.group_norm.default: Row(partial(_gain, weight=2, channels=True), (2,)),
    **{_op(f"{x}_norm.default"): Row(partial(_gain, weight=1, channels=True), (1,)) for x in ("batch", "instance")},
    aten.scaled_dot_product_attention.default: Row(_attention, (2,)),
    aten.embedding.default: Row(_embedded, (0,)),
}
"""Ops that factors go through or end in; they do neither in any other."""

SIZES = {aten.sym_size.int, aten.sym_numel.default, aten.zeros_like.default, aten.ones_like.default}
"""Ops that read the shape alone."""
