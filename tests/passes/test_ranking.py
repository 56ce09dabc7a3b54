from __future__ import annotations

from collections.abc import Hashable, Iterable

import pytest
import torch
from graphc.passes.ranking import Allowed, rank

from graphc.axes.axis import Axis


@pytest.mark.parametrize(
    ("full", "left", "to", "expected"),
    [(64, 33, 8, 40), (64, 32, 8, 32), (64, 0, 8, 8), (12, 1, 8, 8), (6, 3, 8, 6), (5, 0, 1, 1), (10, 10, 4, 10)],
)
def test_rounding_goes_up_and_never_beyond(full: int, left: int, to: int, expected: int) -> None:
    assert Allowed(multiple=to).size(full, left) == expected


def scores() -> dict[Axis, torch.Tensor]:
    strong, weak = Axis(4), Axis(6)
    return {strong: torch.tensor([9.0, 10.0, 11.0, 10.0]), weak: torch.tensor([0.1, 3.0, 3.0, 0.2, 3.0, 3.0])}


def alone(axes: Iterable[Axis]) -> dict[Axis, Hashable]:
    return {axis: id(axis) for axis in axes}


def together(axes: Iterable[Axis]) -> dict[Axis, Hashable]:
    return dict.fromkeys(axes, "all")


def test_local_takes_the_same_share_of_every_axis() -> None:
    found = scores()
    strong, weak = found
    ranking = rank(found, alone(found))
    assert ranking.by_ratio(dict.fromkeys(found, 0.5)) == {strong: 2, weak: 3}
    assert ranking.keep({strong: 2, weak: 3}) == {strong: [1, 2], weak: [1, 2, 4]}


def test_global_compares_scores() -> None:
    found = scores()
    strong, weak = found
    assert rank(found, together(found)).by_ratio(dict.fromkeys(found, 0.2)) == {strong: 4, weak: 4}


def test_budget_takes_the_fewest_removals() -> None:
    found = scores()
    strong, weak = found
    ranking = rank(found, alone(found))
    sizes = ranking.by_budget(lambda s: s[strong] * s[weak] <= 12)
    assert sizes is not None
    assert sizes[strong] * sizes[weak] <= 12
    one_less = ranking.sizes(sum(a.size - n for a, n in sizes.items()) - 1)
    assert one_less[strong] * one_less[weak] > 12
    assert ranking.by_budget(lambda s: False) is None


def test_no_axis_falls_below_its_least() -> None:
    found = scores()
    strong, weak = found
    ranking = rank(found, together(found), {strong: Allowed(), weak: Allowed(least=5)})
    assert ranking.by_ratio(dict.fromkeys(found, 0.3)) == {strong: 2, weak: 5}
    assert ranking.sizes(len(ranking.order)) == {strong: 1, weak: 5}


def test_a_ratio_counts_what_is_gone_already() -> None:
    axis = Axis(6)
    axis.name = "x"
    ranking = rank({axis: torch.arange(6.0)}, {axis: 0})
    assert ranking.by_ratio({axis: 0.5}, {"x": 8}) == {axis: 4}
    assert ranking.by_ratio({axis: 0.1}, {"x": 8}) == {axis: 6}


def test_groups_have_ratios_of_their_own() -> None:
    found = scores()
    strong, weak = found
    assert rank(found, alone(found)).by_ratio({strong: 0.0, weak: 0.5}) == {strong: 4, weak: 3}
