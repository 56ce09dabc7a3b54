"""Weights as integers: which dim has scales of its own, and rounding to the nearest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from graphc.errors import GraphError
from graphc.ir.program import Program

from ..contractions import Contraction
from .numbers import Numbers, Rounded


@dataclass(frozen=True)
class Layout:
    """How the scales of a weight lie.

    Attributes:
        dim: of the weight, each entry of which has scales of its own; None for one scale in all.
        block: entries that are summed over and share a scale; None for all of them.
    """

    dim: int | None
    block: int | None = None


def layouts(program: Program, products: Iterable[Contraction], group_size: int | None = None) -> dict[str, Layout]:
    """For each weight of these products the dim of what they give, if all its uses agree on it.

    Args:
        program: has the weights.
        products: that read them.
        group_size: of blocks; a weight that it does not divide, or that is no matrix, has none.
    """
    tensors = program.tensors()
    found: dict[str, Layout] = {}
    for product in products:
        value = tensors[product.weight]
        dim: int | None = _output(product, value.dim())
        if product.weight in found and found[product.weight].dim != dim:
            dim = None
        fits = value.dim() == 2 and group_size is not None and value.shape[product.dim] % group_size == 0
        found[product.weight] = Layout(dim, group_size if fits and dim is not None else None)
    return found


def _output(product: Contraction, rank: int) -> int:
    """The dim of a weight that what it gives has: the first for convolutions and linear layers, else the last."""
    return 0 if product.dim != 0 else 1 if rank > 1 else 0


def check_finite(program: Program, names: Iterable[str]) -> None:
    """See that weights are numbers.

    Raises:
        GraphError: one has NaN or infinity; names it.
    """
    tensors = program.tensors()
    for name in names:
        if not bool(torch.isfinite(tensors[name]).all()):
            why = "it has NaN or infinite entries"
            raise GraphError("a weight cannot be quantised", where=name, why=why, hint="look at what trained it")


def blocked(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    """A weight as ``[out, blocks, block]``, or as it is where no block has a scale of its own."""
    if layout.block is None:
        return value
    return (value if layout.dim == 0 else value.t()).unflatten(1, (-1, layout.block))


def reduced(layout: Layout, rank: int) -> list[int]:
    """The dims of a blocked weight that share a scale."""
    return [-1] if layout.block is not None else [d for d in range(rank) if d != layout.dim]


def nearest(value: torch.Tensor, layout: Layout, bits: int) -> Rounded:
    """Round to the nearest number of a symmetric grid that reaches the greatest entry.

    Args:
        value: the weight.
        layout: of its scales.
        bits: 8 and fewer; four bits in blocks are kept two in a byte.
    """
    data = blocked(value.detach(), layout)
    most = data.abs().amax(reduced(layout, data.dim()), keepdim=True)
    return on_grid(data, most, layout, bits)


def on_grid(data: torch.Tensor, most: torch.Tensor, layout: Layout, bits: int) -> Rounded:
    """The integers of a blocked weight on a symmetric grid that reaches ``most``."""
    numbers = grid(most, layout, bits)
    blocks = layout.block is not None
    return Rounded(numbers.integers(data), numbers, blocks and layout.dim == 1, blocks)


def grid(most: torch.Tensor, layout: Layout, bits: int) -> Numbers:
    """A symmetric grid; of four bits in blocks from 0 to 15 with 8 for zero, as it is packed."""
    half = 2 ** (bits - 1) - 1
    scale = (most / half).clamp(min=torch.finfo(torch.float32).tiny).contiguous()
    if layout.dim is None:
        scale = scale.reshape(())
    if bits == 4 and layout.block is not None:
        return Numbers(scale, torch.full_like(scale, 8, dtype=torch.uint8), 0, 15)
    return Numbers(scale, torch.zeros_like(scale, dtype=torch.int8), -half, half)


def round_to_nearest(program: Program, found: Mapping[str, Layout], bits: int) -> dict[str, Rounded]:
    """All weights, each by itself."""
    tensors = program.tensors()
    return {name: nearest(tensors[name], layout, bits) for name, layout in found.items()}
