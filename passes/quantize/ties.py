"""Which unit each entry of a tensor belongs to, and which units must have the same factor.

Entries are told by a *map*: an int64 tensor of the rank of what it describes, each dim of its size, or of
size 1 where all entries along it belong to the same units; -1 for an entry of no unit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch


class Ties:
    """Units of a dim, by number; those that meet in one entry are tied.

    Args:
        size: how many units there are.
    """

    def __init__(self, size: int) -> None:
        self.first = torch.arange(size)
        """For each unit the first one of those that it is tied to."""

    def tie(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Units that two maps have at the same place become one."""
        left, right = broadcast(left, right)
        meet = (left != right) & (left >= 0) & (right >= 0)
        if not bool(meet.any()):
            return
        left, right = left[meet], right[meet]
        while bool((self.first[left] != self.first[right]).any()):
            a, b = self.first[left], self.first[right]
            low = torch.minimum(a, b)
            self.first = self.first.scatter_reduce(0, torch.cat([a, b]), torch.cat([low, low]), "amin")
            while not torch.equal(self.first, self.first[self.first]):
                self.first = self.first[self.first]

    def merge(self, left: torch.Tensor | None, right: torch.Tensor) -> torch.Tensor:
        """One map of what two know of the same tensor; None is a map that knows nothing."""
        if left is None:
            return right
        self.tie(left, right)
        return collapse(torch.where(left < 0, right, left))

    def along(self, units: torch.Tensor, kept: Collection[int]) -> torch.Tensor:
        """The map with units only along some dims: all entries along any other become one unit."""
        dims = [i for i in range(units.dim()) if i not in kept and units.shape[i] > 1]
        if not dims:
            return units
        one = units.amax(dims, keepdim=True)
        self.tie(one, units)
        return collapse(one)

    def fit(self, units: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The map of a tensor of this shape from that of one that it was broadcast to."""
        rank, start = units.dim(), units.dim() - len(shape)
        kept = [i for i in range(rank) if i >= start and (shape[i - start] == units.shape[i] or units.shape[i] == 1)]
        units = self.along(units, kept)
        return units.reshape(units.shape[start:])

    def same(self, left: torch.Tensor, right: torch.Tensor) -> bool:
        """Do two maps say the same, all ties considered?"""
        left, right = broadcast(left, right)
        return torch.equal(left < 0, right < 0) and torch.equal(
            self.first[left[left >= 0]], self.first[right[right >= 0]]
        )


def broadcast(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two maps of one tensor in the same size."""
    shape = [max(a, b) for a, b in zip(left.shape, right.shape, strict=True)]
    return left.expand(shape), right.expand(shape)


def collapse(units: torch.Tensor) -> torch.Tensor:
    """The map with size 1 along each dim that it does not depend on."""
    for dim in range(units.dim()):
        first = units.narrow(dim, 0, 1)
        if units.shape[dim] > 1 and (units.stride(dim) == 0 or bool((units == first).all())):
            units = first
    return units
