"""The range whose quantised histogram tells the most of the values, by Kullback and Leibler."""

from __future__ import annotations

import torch

NONE = torch.finfo(torch.float64).tiny
SAME = 1e-12
"""Divergences that differ by less are equal."""


class Divergence:
    """``KL(P || Q)`` of many ranges of bins at once (Migacz 2017, 8-bit Inference with TensorRT).

    P is the histogram in the range; what lies outside counts in its first and last bin. Q is what ``levels`` keep of
    the bins in the range: the range is cut into so many cells, and the count of a cell is divided evenly among those
    of its bins that P does not have empty. As Q is the same in all of them, sums up to each bin give those of a cell.
    """

    def __init__(self, counts: torch.Tensor, levels: int) -> None:
        self.levels = min(levels, len(counts))
        self.counts = counts.double()
        self.total, self.filled = _up_to(self.counts), _up_to((counts > 0).double())
        self.own = _up_to(torch.xlogy(self.counts, self.counts))

    def __call__(self, starts: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """For each range ``[start, end)`` its divergence; infinite where values from outside have no level."""
        before, after = self.total.take(starts), self.total[-1] - self.total.take(ends)
        first, last = self.counts.take(starts), self.counts.take(ends - 1)
        edges = starts[:, None] + -(torch.arange(self.levels + 1) * (starts - ends)[:, None] // self.levels)
        kept, filled = self.total.take(edges).diff(dim=1), self.filled.take(edges).diff(dim=1)
        filled[:, 0] += (before > 0) & (first == 0)
        filled[:, -1] += (after > 0) & (last == 0)
        q = (kept / filled.clamp_(min=1)).clamp_(min=NONE).log_()
        cross = (kept * q).sum(1) + before * q[:, 0] + after * q[:, -1]
        own = self.own.take(ends) - self.own.take(starts) + _grown(first, before) + _grown(last, after)
        inside = self.total.take(ends) - before
        divergence = (own - cross) / self.total[-1] - self.total[-1].log() + inside.log()
        without = ((before > 0) & (kept[:, 0] == 0)) | ((after > 0) & (kept[:, -1] == 0))
        return divergence.masked_fill(without, torch.inf)


def least_divergent(counts: torch.Tensor, zero: int, levels: int) -> int:
    """How many bins to keep on each side of zero for the least divergence: the same, but no more than there are.

    Of ranges that are as good the greatest is taken.

    Args:
        counts: of consecutive bins; zero lies at the left edge of bin ``zero``.
        levels: that the whole range has; it keeps at least so many bins.
    """
    divergence = Divergence(counts, levels)
    reach = torch.arange(1, max(zero, len(counts) - zero) + 1)
    starts, ends = zero - reach.clamp(max=zero), zero + reach.clamp(max=len(counts) - zero)
    enough = ends - starts >= divergence.levels
    found = divergence(starts[enough], ends[enough])
    return int(reach[enough][found <= found.min() + SAME].max())


def _up_to(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(values.cumsum(0), (1, 0))


def _grown(count: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """By how much ``n log n`` of a bin grows."""
    return torch.xlogy(count + more, count + more) - torch.xlogy(count, count)
