"""Expressions follow tensors: what is done to the dims of a tensor of numbers is done to its axes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from itertools import accumulate

import pytest
import torch

from graphc.axes.axis import Axis, factors, leaf, leaves, measure, positions, product, total
from graphc.axes.unify import cut, divide, take, unify

Sizes = Mapping[Axis, int]
Step = Callable[[torch.Tensor, Sizes], torch.Tensor]
"""One change of a tensor; the sizes of the axes that were cut are given when it is done again."""


def where() -> str:
    return "the place"


class Views:
    """A tensor, its axes, and the steps that led from the first shape to this one."""

    def __init__(self, *shape: int) -> None:
        self.source = [leaf(size) for size in shape]
        self.dims: list[Axis] = list(self.source)
        self.numbers = torch.arange(torch.tensor(shape).prod().item()).view(shape)
        self.steps: list[Step] = []

    def do(self, dims: list[Axis], step: Step) -> None:
        self.numbers = step(self.numbers, {})
        self.dims = dims
        self.steps.append(step)
        assert [axis.size for axis in dims] == list(self.numbers.shape)

    def permute(self, order: list[int]) -> None:
        self.do([self.dims[i] for i in order], lambda x, _: x.permute(order))

    def merge(self, at: int) -> None:
        whole = product(self.dims[at : at + 2])
        assert whole is not None
        self.do([*self.dims[:at], whole, *self.dims[at + 2 :]], lambda x, _: x.flatten(at, at + 1))

    def split(self, at: int, outer: int) -> bool:
        """See a dim as (outer, inner), where its parts have that boundary."""
        axis = self.dims[at]
        parts = take(deque(factors(axis)), [outer, axis.size // outer], where)
        if parts is None:
            return False
        first, second = parts
        assert first is not None
        assert second is not None

        def step(x: torch.Tensor, sizes: Sizes) -> torch.Tensor:
            return x.unflatten(at, (measure(first, sizes), measure(second, sizes)))

        self.do([*self.dims[:at], first, second, *self.dims[at + 1 :]], step)
        return True

    def swap(self, at: int, first: int) -> bool:
        """Cut a dim in two and join the pieces the other way round, where its parts have that boundary."""
        halves = cut(self.dims[at], first, where)
        if halves is None:
            return False
        low, high = halves

        def step(x: torch.Tensor, sizes: Sizes) -> torch.Tensor:
            pieces = x.split([measure(low, sizes), measure(high, sizes)], at)
            return torch.cat([pieces[1], pieces[0]], at)

        self.do([*self.dims[:at], total([high, low]), *self.dims[at + 1 :]], step)
        return True

    def check(self, kept: Mapping[Axis, list[int]]) -> None:
        """Cutting the first tensor and doing all steps gives the last tensor, cut."""
        sizes = {axis: len(units) for axis, units in kept.items()}
        again = taken(torch.arange(self.numbers.numel()).view([a.size for a in self.source]), self.source, kept)
        for step in self.steps:
            again = step(again, sizes)
        assert torch.equal(again, taken(self.numbers, self.dims, kept))


def taken(value: torch.Tensor, dims: list[Axis], kept: Mapping[Axis, list[int]]) -> torch.Tensor:
    for dim, axis in enumerate(dims):
        value = value.index_select(dim, positions(axis, kept))
    return value


def change(views: Views, draw: random.Random) -> str:
    """One random step; says which, or nothing where the step does not fit."""
    at = draw.randrange(len(views.dims))
    size = views.dims[at].size
    kind = draw.choice(["permute", "merge", "split", "split", "swap"])
    done = True
    if kind == "permute":
        views.permute(draw.sample(range(len(views.dims)), len(views.dims)))
    elif kind == "merge" and at + 1 < len(views.dims):
        views.merge(at)
    elif kind == "split" and len(views.dims) < 6:
        outer = [n for n in range(2, size) if size % n == 0]
        done = bool(outer) and views.split(at, draw.choice(outer))
    elif kind == "swap" and size > 1:
        done = views.swap(at, draw.randrange(1, size))
    else:
        done = False
    return kind if done else ""


@pytest.mark.parametrize("seed", range(150))
def test_any_chain_of_views_cuts_the_same_units(seed: int) -> None:
    draw = random.Random(seed)
    views = Views(*draw.choice([(12, 8), (6, 4, 10), (36,), (24, 3)]))
    for _ in range(12):
        change(views, draw)
    free = list(dict.fromkeys(x for axis in views.source for x in leaves(axis) if x.pinned is None))
    kept = {x: sorted(draw.sample(range(x.size), draw.randint(1, x.size))) for x in free if draw.random() < 0.7}
    views.check({})
    views.check(kept)


def test_a_chain_of_channel_shuffles_keeps_the_branches_apart() -> None:
    """ShuffleNet: split in two, change one half, join, shuffle; three times."""
    width = leaf(32)
    for _ in range(3):
        halves = cut(width, 16, where)
        assert halves is not None
        pair = divide(total([halves[0], leaf(16)]), 2, where)
        assert pair is not None
        shuffled = product([pair[1], pair[0]])
        assert shuffled is not None
        width = shuffled
    found = [x for x in dict.fromkeys(leaves(width)) if x.size > 1]
    assert [(x.size, x.pinned) for x in found] == [(4, None)]
    assert len(positions(width, {found[0]: [0, 2]})) == measure(width, {found[0]: 2}) == 16


def test_three_levels_of_products_and_a_sum_agree() -> None:
    """A fused projection (q k v) that is seen as (3 heads width), its heads as (groups of heads)."""
    q, k, v = leaf(24), leaf(24), leaf(24)
    fused = total([q, k, v])
    seen = product([leaf(3), leaf(6), leaf(4)])
    assert seen is not None
    unify(fused, seen, where)
    grouped = product([leaf(2), leaf(3), leaf(4)])
    unify(k, grouped, where)
    assert [x.size for x in leaves(q)] == [x.size for x in leaves(v)] == [2, 3, 4]
    groups = leaves(q)[0]
    assert groups is leaves(v)[0]
    starts = [0, *accumulate([24, 24])]
    wanted = [start + unit for start in starts for unit in range(12, 24)]
    assert positions(fused, {groups: [1]}).tolist() == positions(seen, {groups: [1]}).tolist() == wanted
