"""Ranking: in which order units go, and how many, by ratio or by budget.

A ranking is one list of removals. A ratio takes a prefix of it by count; a budget takes the
shortest prefix whose polynomial costs fit, which is exact and needs no rebuilt model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from graphc.axes.axis import Axis

Mode = Literal["local", "global"]


@dataclass(frozen=True)
class Ranking:
    """Units of some axes in the order in which they would be removed.

    Attributes:
        scores: importance of each unit of each axis.
        order: which axis each removal takes a unit from, as its place in ``scores``; int64, one entry a unit.
            The unit is the least important that is left.
        round_to: what is left of an axis is a multiple of this, where the axis allows.
        mode: ``local`` or ``global``.
    """

    scores: Mapping[Axis, torch.Tensor]
    order: torch.Tensor
    round_to: int
    mode: Mode

    def sizes(self, removed: int) -> dict[Axis, int]:
        """How many units each axis keeps after a prefix of the removals."""
        gone = torch.bincount(self.order[:removed], minlength=len(self.scores)).tolist()
        return {a: rounded(a.size, a.size - n, self.round_to) for a, n in zip(self.scores, gone, strict=True)}

    def by_ratio(self, ratio: float) -> dict[Axis, int]:
        """Sizes when a share of the units goes: of each axis (local) or of all together (global)."""
        if self.mode == "global":
            return self.sizes(round(len(self.order) * ratio))
        return {a: rounded(a.size, a.size - round(a.size * ratio), self.round_to) for a in self.scores}

    def by_budget(self, fits: Callable[[Mapping[Axis, int]], bool]) -> dict[Axis, int] | None:
        """Sizes after the fewest removals that fit; None if nothing fits."""
        low, high = 0, len(self.order)
        if not fits(self.sizes(high)):
            return None
        while low < high:
            middle = (low + high) // 2
            if fits(self.sizes(middle)):
                high = middle
            else:
                low = middle + 1
        return self.sizes(low)

    def keep(self, sizes: Mapping[Axis, int]) -> dict[Axis, list[int]]:
        """The most important units of each axis, in their old order."""
        kept: dict[Axis, list[int]] = {}
        for axis, size in sizes.items():
            if size < axis.size:
                best = torch.argsort(self.scores[axis], descending=True, stable=True)[:size]
                kept[axis] = sorted(best.tolist())
        return kept


def rank(scores: Mapping[Axis, torch.Tensor], mode: Mode, round_to: int) -> Ranking:
    """Order all units: by their place within their axis (local), or by their score (global).

    Scores of different axes are made comparable by dividing by the axis's mean.
    """
    keys = [_keys(values, mode) for values in scores.values()]
    axes = torch.arange(len(keys)).repeat_interleave(torch.tensor([len(each) for each in keys], dtype=torch.int64))
    order = axes[torch.cat(keys).argsort(stable=True)] if keys else axes
    return Ranking(scores, order, round_to, mode)


def _keys(values: torch.Tensor, mode: Mode) -> torch.Tensor:
    """What the units of an axis are ordered by beside those of others, ascending."""
    if mode == "local":
        return (torch.arange(len(values), dtype=torch.float64) + 1) / len(values)
    mean = float(values.mean())
    return (values / mean if mean > 0 else values).sort().values


def rounded(full: int, left: int, to: int) -> int:
    """The nearest multiple of ``to`` above, at least one multiple, never more than there is."""
    return min(full, max(to, -(-max(1, left) // to) * to))
