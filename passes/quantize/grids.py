"""Grids: the real numbers that a weight's integers can stand for, one grid for all entries that share a scale."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from .numbers import Numbers, Rounded
from .weights import Layout

ROUNDS = ((0.1, (-1, 0, 1, 2, 3, 4)), (0.05, (-1, 0, 1)), (0.025, (-1, 0, 1)))
"""How the ends of a range are sought: in each round a step, and how many of them inward from the best so far."""
MOST = 1.1
"""Where an end of four bits in blocks may be, in units of the entry that is farthest; ends of others stay within."""


@dataclass(frozen=True)
class Grids:
    """What the integers of a weight may be.

    Attributes:
        layout: which entries share a scale.
        bits: 8 and fewer.
        zero_points: may the integer for zero be any, and not only the middle one? So it is for four bits
            in blocks alone; all others are symmetric.
    """

    layout: Layout
    bits: int
    zero_points: bool = False

    @property
    def packed(self) -> bool:
        """Are they 0 to 15, kept two in a byte?"""
        return self.bits == 4 and self.layout.block is not None

    @property
    def free(self) -> bool:
        """Has each grid a zero point of its own?"""
        return self.zero_points and self.packed

    def whole(self, data: torch.Tensor) -> Numbers:
        """Grids that reach the least and the greatest entry, and zero, of a blocked weight."""
        return self._reach(*self._ends(data), data.dtype)

    def least_error(self, data: torch.Tensor, importance: torch.Tensor | None = None) -> Numbers:
        """Grids with the least sum of squared errors; entries beyond their ends go to the ends.

        Both ends, or the one of a symmetric range, are moved inward by grids of ratios, finer ones around the best;
        those of four bits in blocks a little outward too.

        Args:
            data: a blocked weight.
            importance: what the square of each entry's error counts; broadcasts to ``data``.
        """
        low, high = self._ends(data)
        most = MOST if self.packed else 1.0
        best = torch.full_like(low, torch.inf)
        ratios = [torch.ones_like(low), torch.ones_like(high)]
        for step, places in ROUNDS:
            first = [ratio.clone() for ratio in ratios]
            for moves in itertools.product(places, repeat=2) if self.free else ((p, p) for p in places):
                tried = [(ratio - step * move).clamp(max=most) for ratio, move in zip(first, moves, strict=True)]
                error = self._error(data, self._reach(low * tried[0], high * tried[1], data.dtype), importance)
                better = error < best
                best = torch.where(better, error, best)
                ratios = [torch.where(better, new, old) for new, old in zip(tried, ratios, strict=True)]
        return self._reach(low * ratios[0], high * ratios[1], data.dtype)

    def rounded(self, data: torch.Tensor, numbers: Numbers) -> Rounded:
        """A blocked weight, each entry as the nearest number of its grid."""
        return self.kept(numbers.integers(data.to(_working(data.dtype))), numbers)

    def kept(self, integers: torch.Tensor, numbers: Numbers) -> Rounded:
        """A blocked weight of these integers."""
        whole = integers.to(numbers.zero_point.dtype)
        return Rounded(whole, numbers, self.layout.turned, self.layout.block is not None)

    def _ends(self, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dims = self.layout.shared(data)
        data = data.to(_working(data.dtype))
        return data.amin(dims, keepdim=True).clamp(max=0), data.amax(dims, keepdim=True).clamp(min=0)

    def _reach(self, low: torch.Tensor, high: torch.Tensor, dtype: torch.dtype) -> Numbers:
        """Numbers from ``low`` to ``high``, whose scale is of a type."""
        half = 2 ** (self.bits - 1) - 1
        whole = (high - low) / (2 * half + 1) if self.free else torch.maximum(-low, high) / half
        scale = whole.to(dtype).clamp(min=torch.finfo(dtype).tiny).contiguous()
        if self.layout.dim is None:
            scale, low = scale.reshape(()), low.reshape(())
        if self.packed:
            zero = (-low / scale).round().clamp(0, 15) if self.free else torch.full_like(scale, half + 1)
            return Numbers(scale, zero.to(torch.uint8), 0, 15)
        return Numbers(scale, torch.zeros_like(scale, dtype=torch.int8), -half, half)

    def _error(self, data: torch.Tensor, numbers: Numbers, importance: torch.Tensor | None) -> torch.Tensor:
        """The sum for each grid."""
        value = data.to(_working(data.dtype))
        error = (numbers.nearest(value) - value).square()
        error = error if importance is None else error * importance
        return error.sum(self.layout.shared(data), keepdim=True)


def _working(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: of 32 bits at least."""
    return torch.promote_types(dtype, torch.float32)
