"""Noise: the difference of two tensors beside the first, summed over batches in double precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch

CHUNK = 2**18
"""Numbers that are compared at a time, or one entry of dim 0 if that has more."""
SUSPECT = 30.0
"""Decibels below which a factor for each unit is looked for."""
LEAST = 2
"""Numbers of a unit that a factor can be told from."""


def decibels(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``: infinite without noise, minus infinity without signal or with infinite noise."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and noise < math.inf else -math.inf


def relative(sqnr_db: float) -> float:
    """Noise in units of the signal."""
    return math.inf if sqnr_db == -math.inf else 10 ** (-sqnr_db / 10)


def units_of(shape: Sequence[int | str]) -> list[tuple[int, ...]]:
    """Dims along which a value may be scaled: one or two of fixed size, none the first."""
    fixed = [dim for dim, size in enumerate(shape) if dim and isinstance(size, int)]
    return [dims for count in (1, 2) for dims in combinations(fixed, count)]


@dataclass
class Noise:
    """Sums of squares of a value ``x`` and of what another one, ``y``, has in its place less that.

    Attributes:
        units: sets of dims; what ``y`` would be after a factor for each entry of these is found out too.
        signal, noise, largest: sum of ``x^2``, sum of ``(x - y)^2``, and the largest difference.
    """

    units: Sequence[tuple[int, ...]] = ()
    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    fits: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)
    numbers: int = 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """One batch more; entries that are infinite, or nearly so, in both alike are left out."""
        signal = noise = 0.0
        for a, b in _parts(x, y):
            found = _sums(a.flatten(), b.flatten(), _bound(x))
            signal, noise, self.largest = signal + found[0], noise + found[1], max(self.largest, found[2])
        self.signal, self.noise = self.signal + signal, self.noise + noise
        self.numbers += x.numel()
        if decibels(signal, noise) > SUSPECT or noise == math.inf:
            self.units, self.fits = (), {}
        for dims in self.units:
            for a, b in _parts(x, y):
                sums = _by_unit(a, b, dims)
                self.fits[dims] = self.fits[dims] + sums if dims in self.fits else sums

    @property
    def sqnr_db(self) -> float:
        """Signal to noise."""
        return decibels(self.signal, self.noise)

    @property
    def scaled_db(self) -> float:
        """The same after the best factor for each unit, of those that were looked for; minus infinity if none was."""
        return max((self._scaled(fit) for fit in self.fits.values()), default=-math.inf)

    def _scaled(self, fit: torch.Tensor) -> float:
        xx, xy, yy = fit
        each = self.numbers / xx.numel()
        if each < LEAST:
            return -math.inf
        left = xx - torch.where(yy > 0, xy.square() / yy, 0)
        return decibels(float(xx.sum()), float(left.clamp(min=0).sum()) * each / (each - 1))


def _parts(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Both in double precision, some entries of dim 0 at a time."""
    x, y = (torch.view_as_real(v) if v.is_complex() else v for v in (x, y.to(x.device)))
    rows = max(1, CHUNK * len(x) // max(1, x.numel())) if x.dim() else 1
    parts = [torch.split(v, rows) if v.dim() else (v,) for v in (x, y)]
    for a, b in zip(*parts, strict=True):
        yield a.double(), b.double()


def _sums(a: torch.Tensor, b: torch.Tensor, bound: float) -> tuple[float, float, float]:
    """Signal, noise and largest difference of two vectors."""
    if not len(a):
        return 0.0, 0.0, 0.0
    signal, gap = float(a @ a), a - b
    noise = float(gap @ gap)
    if not (signal < bound * bound and noise < math.inf):  # only then there are entries to leave out
        gap = gap.nan_to_num(math.inf).masked_fill((a == b) | (a.isnan() & b.isnan()), 0)
        signal, noise = float(a.masked_fill(~(a.abs() < bound), 0).square().sum()), float(gap.square().sum())
    least, most = gap.aminmax()
    return signal, noise, max(-float(least), float(most))


def _bound(x: torch.Tensor) -> float:
    """What is beyond it stands for infinity, as in masks of attention."""
    return torch.finfo(x.dtype).max / 2 if x.is_floating_point() else math.inf


def _by_unit(x: torch.Tensor, y: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Sums of ``x^2``, ``x y`` and ``y^2`` for each entry of some dims."""
    finite = x.isfinite() & y.isfinite()
    x, y = (v.masked_fill(~finite, 0) for v in (x, y))
    rest = [dim for dim in range(x.dim()) if dim not in dims]
    return torch.stack([(a * b).sum(rest) for a, b in ((x, x), (x, y), (y, y))])
