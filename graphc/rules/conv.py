"""Convolutions, pooling and resampling: dense, grouped and depthwise are one rule.

Kernel dims stay whole: cutting them would change the padding too. So do spatial dims, unless the
result has the same: then neighbours meet, and the dim is mixed (a convolution over channels).
"""

from __future__ import annotations

import re
from functools import cache

import torch

from graphc.axes.axis import Axis, product
from graphc.axes.unify import divide
from graphc.rules.operation import Operation, Value
from graphc.rules.table import RULES, Flow, line, rule

aten = torch.ops.aten
ROLES = {"o": "filters", "g": "groups"}
SMOOTH = {
    1: ("upsample_linear1d",),
    2: ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    3: ("upsample_trilinear3d",),
}
SPACE = {1: ("h",), 2: ("h", "w"), 3: ("d", "h", "w")}


def _brackets(letters: tuple[str, ...], prefix: str) -> str:
    return " ".join(f"[{prefix}{letter}]" for letter in letters)


CORE: dict[tuple[int, bool], Flow] = {}
"""Lines of ``aten.convolution`` by rank, and whether it is transposed."""


def _convolution(rank: int, groups: int) -> Flow:
    """A convolution whose argument ``groups`` is at this position.

    A spatial dim that keeps its size is the same dim in the result: each position by itself where
    the kernel has one place along it, else mixed with its neighbours.
    """

    @cache
    def line_of(ways: tuple[str, ...]) -> Flow:
        before, after = zip(*(way.split() for way in ways), strict=True)
        kernel = _brackets(SPACE[rank], "k")
        text = f"... (g i) {' '.join(before)}, (g o) i {kernel}, (g o) -> ... (g o) {' '.join(after)}"
        macs = " ".join(["... g o i", kernel, *after])
        return line(text, sizes={"g": groups}, roles=ROLES, macs=re.sub(r"[][~]", "", macs))

    def flow(op: Operation) -> Value:
        strides = op.arg(3, 1)
        strides = strides * (rank // len(strides)) if isinstance(strides, list) else [strides] * rank
        dims = zip(SPACE[rank], op.tensor(0)[-rank:], op.tensor(1)[-rank:], op.shape()[-rank:], strides, strict=True)
        return line_of(tuple(_way(*dim) for dim in dims))(op)

    return flow


def _way(letter: str, axis: Axis | None, kernel: Axis | None, after: int, stride: int) -> str:
    """The words of a spatial dim before and after."""
    if stride != 1 or after != (axis.size if axis else 1):
        return f"[{letter}] [out_{letter}]"
    return f"{letter} {letter}" if kernel is None else f"~{letter} ~{letter}"


for _rank, _letters in SPACE.items():
    _in, _kernel, _out = (_brackets(_letters, prefix) for prefix in ("", "k", "out_"))
    _conv = getattr(aten, f"conv{_rank}d")
    rule([_conv.default, _conv.padding], _convolution(_rank, groups=6))
    CORE[_rank, False] = _convolution(_rank, groups=8)
    _line = f"... (g i) {_in}, (g i) o {_kernel}, (g o) -> ... (g o) {_out}"
    _macs = "... g o i " + " ".join(f"k{s} {s}" for s in _letters)
    _transposed = getattr(aten, f"conv_transpose{_rank}d")
    _overload = getattr(_transposed, "default" if _rank == 1 else "input")
    rule(_overload, _line, sizes={"g": 6}, roles=ROLES, macs=_macs)
    CORE[_rank, True] = line(_line, sizes={"g": 8}, roles=ROLES, macs=_macs)
    _pools = [getattr(aten, f"{kind}_pool{_rank}d").default for kind in ("avg", "max", "adaptive_avg")]
    rule(_pools, f"... {_in} -> ... {_out}")
    rule(getattr(aten, f"adaptive_max_pool{_rank}d").default, f"... {_in} -> ... {_out}, ... {_out}")
    for _name in (f"upsample_nearest{_rank}d", f"_upsample_nearest_exact{_rank}d", *SMOOTH[_rank]):
        rule([getattr(aten, _name).vec, getattr(aten, _name).default], f"... {_in} -> ... {_out}")

rule(aten.max_pool2d_with_indices.default, "... [h] [w] -> ... [p] [q], ... [p] [q]")
rule(aten.max_pool3d_with_indices.default, "... [d] [h] [w] -> ... [o] [p] [q], ... [o] [p] [q]")
rule(aten._adaptive_avg_pool2d.default, RULES[aten.adaptive_avg_pool2d.default])
rule(aten._adaptive_avg_pool3d.default, RULES[aten.adaptive_avg_pool3d.default])
rule(aten.convolution.default, lambda op: CORE[len(op.tensor(1)) - 2, bool(op.arg(6))](op))


def _affine_grid(op: Operation) -> Value:
    """Positions: every dim but the batch, whose size is an argument too, is counted."""
    theta = op.tensor(0)
    op.state((1, 0), theta[0])
    for axis in theta[1:]:
        if axis is not None:
            axis.pin(f"an affine map at {op.where()}")
    return (theta[0], *(op.fresh(size, "counts positions") for size in op.shape()[1:]))


GRID = {
    4: line("n c [h] [w], n p q [two] -> n c p q"),
    5: line("n c [d] [h] [w], n o p q [three] -> n c o p q"),
}
rule(aten.grid_sampler.default, lambda op: GRID[len(op.tensor(0))](op))
rule([aten.grid_sampler_2d.default, aten.grid_sampler_3d.default], RULES[aten.grid_sampler.default])
rule(aten.affine_grid_generator.default, _affine_grid)


def _columns(op: Operation) -> Value:
    """im2col, col2im: the positions of a kernel go behind the channels."""
    axes, sizes = op.tensor(0), op.shape()
    moved = 2 if op.node.target is aten.im2col.default else 1
    for axis in axes[len(axes) - moved :]:
        if axis is not None:
            axis.pin(f"windows taken at {op.where()}")
    at = len(axes) - moved - 1
    channels = _shuffled_channels(op, axes[at], sizes[at])
    return (*axes[:at], channels, *(op.fresh(s, "windows") for s in sizes[at + 1 :]))


def _shuffle(op: Operation) -> Value:
    """pixel_shuffle and pixel_unshuffle: the factor goes between channels and space."""
    axes, sizes = op.tensor(0), op.shape()
    lead = axes[:-3]
    for axis in axes[-2:]:
        if axis is not None:
            axis.pin(f"a spatial dim of {op.where()}")
    channels = _shuffled_channels(op, axes[-3], sizes[-3])
    return (*lead, channels, *(op.fresh(s, "a spatial dim") for s in sizes[-2:]))


def _shuffled_channels(op: Operation, axis: Axis | None, size: int) -> Axis | None:
    if axis is None or size == 1:
        if axis is not None:
            axis.pin(f"the factor of {op.where()}")
        return op.fresh(size, "the factor")
    if size < axis.size:
        pair = divide(axis, size, op.where)
        if pair is None:
            axis.pin(f"no common boundary with the factor of {op.where()}")
            return op.fresh(size, "no common boundary with the factor")
        pair[1].pin(f"the factor of {op.where()}")
        return pair[0]
    return product([axis, op.fresh(size // axis.size, "the factor")])


rule([aten.pixel_shuffle.default, aten.pixel_unshuffle.default], _shuffle)


def _channel_shuffle(op: Operation) -> Value:
    """``(g c) -> (c g)`` of dim 1."""
    axes = op.tensor(0)
    groups = op.number(op.arg(1))
    pair = None if axes[1] is None else divide(axes[1], groups, op.where)
    if pair is None:
        for axis in axes[1:2]:
            if axis is not None:
                axis.pin(f"no common boundary with the groups of {op.where()}")
        return (axes[0], op.fresh(op.shape()[1], "no common boundary with the groups"), *axes[2:])
    op.state((1,), pair[0])
    return (axes[0], product([pair[1], pair[0]]), *axes[2:])


rule([aten.im2col.default, aten.col2im.default], _columns)
rule(aten.channel_shuffle.default, _channel_shuffle)
