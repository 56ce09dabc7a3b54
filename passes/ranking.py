"""Ranking: in which order units go, and how many, by ratio or by budget.

Units are ranked within groups of axes: each axis by itself (local), all together (global), or the axes
that play the same part (isomorphic). A ratio takes a share of each group. A budget takes the same share
of every group, as small as fits: one list of removals of which a prefix goes, which is exact and needs
no rebuilt model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch

from graphc.axes.axis import Axis


@dataclass(frozen=True)
class Allowed:
    """Which sizes an axis may have: a multiple, at least some, or all that there is; or some sizes alone."""

    multiple: int = 1
    least: int = 1
    sizes: tuple[int, ...] = ()

    def size(self, full: int, left: int) -> int:
        """The smallest allowed size that is not below ``left``."""
        wanted = max(left, self.least, 1)
        if self.sizes:
            return min((size for size in self.sizes if size >= wanted), default=full)
        return min(full, -(-wanted // self.multiple) * self.multiple)


@dataclass(frozen=True)
class Ranking:
    """Units of some axes in the order in which they would be removed.

    Attributes:
        scores: importance of each unit of each axis.
        groups: what each axis is ranked with.
        allowed: the sizes each axis may have.
        order: which axis each removal takes a unit from, as its place in ``scores``; int64. The unit is
            the least important that is left. Each group is spread evenly over the whole.
    """

    scores: Mapping[Axis, torch.Tensor]
    groups: Mapping[Axis, Hashable]
    allowed: Mapping[Axis, Allowed]
    order: torch.Tensor

    def sizes(self, removed: int) -> dict[Axis, int]:
        """How many units each axis keeps after a prefix of the removals."""
        return self._left(self.order[:removed])

    def _left(self, removals: torch.Tensor) -> dict[Axis, int]:
        gone = torch.bincount(removals, minlength=len(self.scores)).tolist()
        return {a: self.allowed[a].size(a.size, a.size - n) for a, n in zip(self.scores, gone, strict=True)}

    def by_ratio(self, ratios: Mapping[Axis, float], full: Mapping[str, int] | None = None) -> dict[Axis, int]:
        """Sizes when a share of the units of every group goes.

        Args:
            ratios: for each axis; axes of one group have one ratio.
            full: sizes by name that the ratio is of, where some units are gone already.
        """
        members: dict[Hashable, list[int]] = {}
        for number, axis in enumerate(self.scores):
            members.setdefault(self.groups[axis], []).append(number)
        axes = list(self.scores)
        taken: list[torch.Tensor] = [self.order[:0]]
        for numbers in members.values():
            whole = sum((full or {}).get(axes[n].name, axes[n].size) for n in numbers)
            now = sum(axes[n].size for n in numbers)
            count = round(whole * ratios[axes[numbers[0]]]) - (whole - now)
            own = self.order[torch.isin(self.order, torch.tensor(numbers))]
            taken.append(own[: max(0, count)])
        return self._left(torch.cat(taken))

    def by_budget(self, fits: Callable[[Mapping[Axis, int]], bool], fill: bool = False) -> dict[Axis, int] | None:
        """Sizes after the fewest removals that fit; None if nothing fits.

        Args:
            fits: a test of sizes.
            fill: take removals back, the last first, as long as the rest fits: where sizes have steps, one that
                is passed by a single axis leaves room for others.
        """
        low, high = 0, len(self.order)
        if not fits(self.sizes(high)):
            return None
        while low < high:
            middle = (low + high) // 2
            if fits(self.sizes(middle)):
                high = middle
            else:
                low = middle + 1
        return self._filled(low, fits) if fill else self.sizes(low)

    def _filled(self, removed: int, fits: Callable[[Mapping[Axis, int]], bool]) -> dict[Axis, int]:
        axes, sizes, full = list(self.scores), self.sizes(removed), set()
        left = dict(sizes)
        for number in reversed(self.order[:removed].tolist()):
            axis = axes[number]
            if axis in full:
                continue
            left[axis] = min(axis.size, left[axis] + 1)
            larger = {**sizes, axis: self.allowed[axis].size(axis.size, left[axis])}
            if larger[axis] == sizes[axis] or fits(larger):
                sizes = larger
            else:
                full.add(axis)
        return sizes

    def keep(self, sizes: Mapping[Axis, int]) -> dict[Axis, list[int]]:
        """The most important units of each axis, in their old order."""
        kept: dict[Axis, list[int]] = {}
        for axis, size in sizes.items():
            if size < axis.size:
                best = torch.argsort(self.scores[axis], descending=True, stable=True)[:size]
                kept[axis] = sorted(best.tolist())
        return kept


def rank(
    scores: Mapping[Axis, torch.Tensor],
    groups: Mapping[Axis, Hashable],
    allowed: Mapping[Axis, Allowed] | None = None,
) -> Ranking:
    """Order all units by their place within their group, the least important first.

    Args:
        scores: comparable within a group.
        groups: equal for axes that are ranked together.
        allowed: sizes that an axis may have; an axis is never ranked below its least.
    """
    sizes = allowed or {axis: Allowed() for axis in scores}
    together: dict[Hashable, list[tuple[int, torch.Tensor]]] = {}
    for number, (axis, values) in enumerate(scores.items()):
        together.setdefault(groups[axis], []).append((number, values.sort().values))
    axes: list[torch.Tensor] = []
    places: list[torch.Tensor] = []
    for members in together.values():
        numbers, place = _in_group(members)
        axes.append(numbers)
        places.append(place)
    if not axes:
        return Ranking(scores, groups, sizes, torch.zeros(0, dtype=torch.int64))
    order = torch.cat(axes)[torch.cat(places).argsort(stable=True)]
    return Ranking(scores, groups, sizes, _until_least(order, [(a.size - sizes[a].least) for a in scores]))


def _in_group(members: Sequence[tuple[int, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The axes of a group's units in order of score, and each unit's place as a share of the group."""
    counts = torch.tensor([len(values) for _, values in members])
    numbers = torch.tensor([number for number, _ in members]).repeat_interleave(counts)
    ordered = numbers[torch.cat([values for _, values in members]).argsort(stable=True)]
    return ordered, torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)


def _until_least(order: torch.Tensor, most: Sequence[int]) -> torch.Tensor:
    """The removals without those that would take more than so many units of an axis."""
    keep = torch.ones(len(order), dtype=torch.bool)
    for number, count in enumerate(most):
        own = (order == number).nonzero().flatten()
        keep[own[max(0, count) :]] = False
    return order[keep]
