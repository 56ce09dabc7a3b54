"""A histogram of numbers that come in batches, in fixed memory."""

from __future__ import annotations

import math

import torch

BINS = 1 << 13
"""Bins on each side of zero."""
CHUNK = 1 << 18
"""Numbers put into bins at a time: what a cache holds."""
FINEST = -126
"""Exponent of the least width: its inverse is a float32."""


class Histogram:
    """Counts of numbers in bins that meet at zero; their width is the same for all, a power of two.

    ``counts`` is ``[2 * BINS + 1]``: ``counts[BINS]`` of exact zeros, ``counts[BINS + i]`` of what is in
    ``((i - 1) width, i width]`` and ``counts[BINS - i]`` of the same below zero. A number beyond the last bin doubles
    the width, which adds bins in pairs. The largest number lies in the outer half of the bins, and the counts depend
    neither on the order of the numbers nor on how they were divided into batches.
    """

    def __init__(self) -> None:
        self.exponent = FINEST
        self.counts = torch.zeros(2 * BINS + 1, dtype=torch.int64)

    @property
    def width(self) -> float:
        """Of one bin."""
        return 2.0**self.exponent

    def add(self, values: torch.Tensor, largest: float) -> None:
        """Count values, which have one dim and are finite; ``largest`` is the largest absolute one."""
        self._widen(math.frexp(largest)[1] - int(math.log2(BINS)))
        dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
        size = min(CHUNK, len(values))
        places = torch.empty(size, dtype=dtype, device=values.device)
        bins = torch.empty(size, dtype=torch.int32, device=values.device)
        for part in torch.split(values, CHUNK):
            place, bin = places[: len(part)], bins[: len(part)]
            place.copy_(part).mul_(1 / self.width).abs_().ceil_().copysign_(part).add_(BINS)
            self.counts += torch.bincount(bin.copy_(place), minlength=2 * BINS + 1).cpu()

    def sides(self, factor: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Counts below zero, ``[n]``, of zeros, ``[1]``, and above zero, ``[n]``, in bins that are ``factor`` as wide.

        Both sides go outward from zero.
        """
        below, zeros, above = torch.split(self._merged(factor), [BINS // factor, 1, BINS // factor])
        return below.flip(0), zeros, above

    def _merged(self, factor: int) -> torch.Tensor:
        below, zeros, above = torch.split(self.counts, [BINS, 1, BINS])
        return torch.cat([below.reshape(-1, factor).sum(1), zeros, above.reshape(-1, factor).sum(1)])

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            factor = min(1 << (exponent - self.exponent), BINS)
            rest = BINS - BINS // factor
            self.counts = torch.nn.functional.pad(self._merged(factor), (rest, rest))
            self.exponent = exponent


def quantile(counts: torch.Tensor, zero: int, share: float) -> float:
    """The number, in widths of a bin, that a share of all numbers does not exceed, to one bin.

    Args:
        counts: of consecutive bins.
        zero: index of the bin of exact zeros.
        share: above 0, at most 1.
    """
    up_to = counts.cumsum(0)
    rank = share * int(up_to[-1])
    index = min(int(torch.searchsorted(up_to, rank)), len(counts) - 1)
    if index == zero:
        return 0.0
    missing = (int(up_to[index]) - rank) / int(counts[index])
    return index - zero + (index < zero) - missing
