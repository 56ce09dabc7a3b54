"""Weights that become integers: which of their entries share a scale, and in what form they are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from graphc.errors import GraphError
from graphc.ir.program import Program

from ..contractions import Contraction


@dataclass(frozen=True)
class Layout:
    """How the scales of a weight lie.

    Attributes:
        dim: of the weight, each entry of which has scales of its own; None for one scale in all.
        block: entries that are summed over and share a scale; None for all of them.
    """

    dim: int | None
    block: int | None = None

    @property
    def turned(self) -> bool:
        """Is the weight, with blocks, kept as its transposed?"""
        return self.block is not None and self.dim == 1

    def blocked(self, value: torch.Tensor) -> torch.Tensor:
        """A weight as ``[out, blocks, block]``, or as it is where no block has a scale of its own."""
        if self.block is None:
            return value
        rows = value.t() if self.turned else value
        return rows.reshape(rows.shape[0], -1, self.block)

    def joined(self, data: torch.Tensor) -> torch.Tensor:
        """A weight from what ``blocked`` gives."""
        if self.block is None:
            return data
        return data.flatten(1).t() if self.turned else data.flatten(1)

    def shared(self, data: torch.Tensor) -> list[int]:
        """The dims of what ``blocked`` gives whose entries share a scale."""
        return [-1] if self.block is not None else [d for d in range(data.dim()) if d != self.dim]


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
