"""Observers: what range a value needs, found in fixed memory from batches of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch

from graphc.errors import GraphError, RecipeError

from .divergence import least_divergent
from .histogram import BINS, Histogram, quantile
from .squared_error import least_error

TINY = torch.finfo(torch.float32).tiny
CHANGE = "give calibration data for which it changes, or leave it in float"


class CalibrationError(GraphError):
    """A value has no range that numbers of few bits can hold."""


@dataclass(kw_only=True)
class Observer(ABC):
    """Sees the batches of a value and says which real numbers a format must reach to hold it.

    Attributes:
        name: of the value, for errors.
        levels: how many numbers the format has.
        symmetric: the range is ``(-t, t)``, with ``(levels - 1) // 2`` steps from 0 to t; otherwise it has
            ``levels - 1`` steps from end to end. Zero is one of the numbers.
    """

    name: str
    levels: int = 256
    symmetric: bool = False
    least: float = field(default=math.inf, init=False)
    greatest: float = field(default=-math.inf, init=False)

    def see(self, value: torch.Tensor) -> None:
        """Take a batch of any shape into account.

        Raises:
            CalibrationError: a number of it is NaN or infinite.
        """
        if not value.numel():
            return
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        values = value.detach().permute(order).reshape(-1)  # in the order of memory: no copy
        low, high = (float(end) for end in torch.aminmax(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            found = "NaN" if math.isnan(low) else "infinite numbers"
            raise self._error(f"it has {found}", "look at the calibration data and at what the model gives in float")
        self.least, self.greatest = min(self.least, low), max(self.greatest, high)
        self.add(values, low, high)

    def range(self) -> tuple[float, float]:
        """The least and the greatest real number to reach; zero is between them or one of them.

        Raises:
            CalibrationError: nothing was seen, all numbers were the same, or the range has no step in float32.
        """
        if self.least > self.greatest:
            raise self._error("it was never seen", "give calibration data for which the model computes it")
        if self.least == self.greatest:
            raise self._error(f"it is {self.least:g} throughout the calibration data", CHANGE)
        low, high = self._with_step(min(self.least, 0.0), max(self.greatest, 0.0))
        if not self.symmetric:
            return self._with_step(*self.find(low, high))
        low, high = self._with_step(*self.find(0.0, max(-low, high)))
        return -max(-low, high), max(-low, high)

    @abstractmethod
    def add(self, values: torch.Tensor, low: float, high: float) -> None:
        """Take ``[n]`` finite numbers into account, of which the least and the greatest are given."""

    @abstractmethod
    def find(self, least: float, greatest: float) -> tuple[float, float]:
        """The range, within that of all numbers and zero; of their absolute values if the format is symmetric."""

    def _with_step(self, low: float, high: float) -> tuple[float, float]:
        if high - low < self.levels * TINY:
            raise self._error(f"its range, {low:g} to {high:g}, has no step in float32", CHANGE)
        return low + 0.0, high + 0.0  # no negative zeros

    def _error(self, why: str, hint: str) -> CalibrationError:
        return CalibrationError("a value cannot be calibrated", where=self.name, why=why, hint=hint)


class MinMax(Observer):
    """All that was seen."""

    def add(self, values: torch.Tensor, low: float, high: float) -> None:
        """Nothing: every observer keeps both ends."""

    def find(self, least: float, greatest: float) -> tuple[float, float]:
        """All of it."""
        return least, greatest


@dataclass(kw_only=True)
class MovingAverage(Observer):
    """Means of the ends of batches: those so far weigh ``momentum``, those of the next batch what is left to 1."""

    momentum: float = 0.9
    ends: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise RecipeError(f"a momentum of {self.momentum}", where="momentum", why="it is in [0, 1)")

    def add(self, values: torch.Tensor, low: float, high: float) -> None:
        """Move the means towards these ends."""
        new = [low, high]
        self.ends = [self.momentum * m + (1 - self.momentum) * n for m, n in zip(self.ends or new, new, strict=True)]

    def find(self, least: float, greatest: float) -> tuple[float, float]:
        """Between the mean ends, and to zero."""
        low, high = self.ends
        return min(low, 0.0), max(high, 0.0)


@dataclass(kw_only=True)
class Distribution(Observer):
    """Keeps a histogram."""

    histogram: Histogram = field(default_factory=Histogram, init=False)

    def add(self, values: torch.Tensor, low: float, high: float) -> None:
        """Count them."""
        self.histogram.add(values, max(-low, high))

    def sides(self, factor: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the histogram's; of absolute values, so that none is below zero, if the format is symmetric."""
        below, zeros, above = self.histogram.sides(factor)
        return (below[:0], zeros, below + above) if self.symmetric else (below, zeros, above)


@dataclass(kw_only=True)
class Percentile(Distribution):
    """Holds this percentage of all numbers, to one bin of the histogram.

    The rest is left out in equal parts at both ends, all at one end where the numbers have one sign, and by
    absolute value where the format is symmetric.
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise RecipeError(f"a percentile of {self.percentile}", where="percentile", why="it is in (0, 100]")

    def find(self, least: float, greatest: float) -> tuple[float, float]:
        """Between two percentiles."""
        below, zeros, above = self.sides()
        counts = torch.cat([below.flip(0), zeros, above])
        left_out = (1 - self.percentile / 100) / (2 if least < 0 < greatest else 1)
        low = -self.histogram.width * quantile(counts.flip(0), len(above), 1 - left_out)
        high = self.histogram.width * quantile(counts, len(below), 1 - left_out)
        low, high = min(max(low, least), 0.0), max(min(high, greatest), 0.0)
        if low == high:
            why = f"{self.percentile:g} % of its numbers are zero"
            raise self._error(why, "take a higher percentile, or another method")
        return low, high


class Entropy(Distribution):
    """Leaves out what makes the quantised histogram differ least from the whole (Migacz 2017).

    The difference is Kullback and Leibler's divergence. What is left out is beyond the same distance on both sides,
    and the levels are spread over what remains. Numbers less than a bin from zero, which would outweigh the rest,
    count as often as those of the next bin.
    """

    bins = 2048
    """At most so many on each side of zero, at least half of them where the largest number is."""

    def find(self, least: float, greatest: float) -> tuple[float, float]:
        """What is kept."""
        factor = BINS // self.bins
        width = self.histogram.width * factor
        below, _, above = (torch.cat([side[1:2], side[1:]]) for side in self.sides(factor))
        below, above = below[: math.ceil(-least / width)], above[: math.ceil(greatest / width)]
        levels = (self.levels + 1) // 2 if self.symmetric else self.levels
        reach = width * least_divergent(torch.cat([below.flip(0), above]), len(below), levels)
        return max(-reach, least), min(reach, greatest)


class LeastError(Distribution):
    """The range that gives the least squared error of quantisation."""

    def find(self, least: float, greatest: float) -> tuple[float, float]:
        """Where the sum of squared errors is least."""
        return least_error(self.histogram, least, greatest, self.levels, self.symmetric)


METHODS: dict[str, type[Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": LeastError,
}
"""Ways to find a range, by name."""
