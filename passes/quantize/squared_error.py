"""The range that rounds the numbers of a histogram with the least squared error."""

from __future__ import annotations

import torch

from .histogram import BINS, Histogram

COARSE, FINE, ROUNDS = 32, 9, 3
"""Ends tried in the first round, in the others, and how many rounds there are."""
DEPTH = 10.0
"""Octaves from the greatest range that is tried to the least."""
LOOKUPS = 1 << 20
"""Levels of ranges looked up at a time."""


class SquaredError:
    """Sum of ``(x - rounded x)^2`` over a histogram, for many ranges at once.

    Numbers lie evenly in their bins; exact zeros have no error. With levels a step ``s`` apart, ``e`` the middle
    between one and the next, and ``F(t)`` how many numbers are below ``t``, summing by parts gives

        sum (x - rounded x)^2 = sum (x - last level)^2 - 2 s sum_e G(e),    G(e) = integral of F up to e

    which is a look-up for each level, clipping included.
    """

    def __init__(self, histogram: Histogram, levels: int, symmetric: bool) -> None:
        self.width, self.levels, self.symmetric = histogram.width, levels, symmetric
        below, _, above = torch.split(histogram.counts.double(), [BINS, 1, BINS])
        count = torch.cat([below, above])
        middle = torch.arange(2 * BINS, dtype=torch.float64) - BINS + 0.5
        self.moments = tuple(float((count * m).sum()) for m in (torch.ones(1), middle, middle**2 + 1 / 12))
        # G at the left edge of each bin, and its first and half its second derivative there
        under = torch.nn.functional.pad(count.cumsum(0), (1, 0))
        area = torch.nn.functional.pad((under[:-1] + count / 2).cumsum(0), (1, 0))
        self.area, self.under, self.half = area, under, torch.nn.functional.pad(count / 2, (0, 1))

    def __call__(self, lows: torch.Tensor, highs: torch.Tensor) -> torch.Tensor:
        """For each range its error, in squares of a number; a symmetric range is ``(-high, high)``."""
        parts = zip(*(torch.split(ends, max(1, LOOKUPS // self.levels)) for ends in (lows, highs)), strict=True)
        return torch.cat([self._of(low / self.width, high / self.width) for low, high in parts]) * self.width**2

    def _of(self, lows: torch.Tensor, highs: torch.Tensor) -> torch.Tensor:
        if self.symmetric:
            step, zero = highs / ((self.levels - 1) // 2), torch.full_like(highs, self.levels // 2)
        else:
            step = (highs - lows) / (self.levels - 1)
            zero = (-lows / step).round()
        middles = torch.arange(self.levels - 1, dtype=torch.float64) + 0.5
        places = ((middles - zero[:, None]) * step[:, None]).add_(BINS).clamp_(0, 2 * BINS)
        bins = places.long()
        inside = places - bins
        area = self.half.take(bins).mul_(inside).add_(self.under.take(bins)).mul_(inside).add_(self.area.take(bins))
        last = (self.levels - 1 - zero) * step
        count, first, second = self.moments
        return second - 2 * last * first + last**2 * count - 2 * step * area.sum(1)


def least_error(
    histogram: Histogram, least: float, greatest: float, levels: int, symmetric: bool
) -> tuple[float, float]:
    """The range within ``(least, greatest)``, which holds zero, of least squared error.

    Both ends are tried together, from a thousandth to all of what they may be, on a grid of ratios, then on finer ones
    around the best. A symmetric range ``(-t, t)``, of ``(levels - 1) // 2`` steps above zero and ``levels // 2`` below,
    is found as ``(0, t)``.
    """
    error = SquaredError(histogram, levels, symmetric)
    low, high = least, greatest
    first, last, points = -DEPTH, 0.0, COARSE
    for _ in range(ROUNDS):
        lows, highs = (_near(end, limit, first, last, points) for end, limit in ((low, least), (high, greatest)))
        pairs = torch.cartesian_prod(lows, highs)
        low, high = pairs[error(pairs[:, 0], pairs[:, 1]).argmin()].tolist()
        step = (last - first) / (points - 1)
        first, last, points = -step, step, FINE
    return low, high


def _near(end: float, limit: float, first: float, last: float, points: int) -> torch.Tensor:
    """An end times powers of two, from the first to the last, each at most the limit; only zero if that is zero."""
    if limit == 0:
        return torch.zeros(1, dtype=torch.float64)
    near = end * torch.logspace(first, last, points, base=2.0, dtype=torch.float64)
    return near.clamp(min(limit, 0), max(limit, 0))
