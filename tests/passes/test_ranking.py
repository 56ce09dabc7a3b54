from __future__ import annotations

import pytest
import torch
from graphc.passes.ranking import rank, rounded

from graphc.axes.axis import Axis


@pytest.mark.parametrize(
    ("full", "left", "to", "expected"),
    [(64, 33, 8, 40), (64, 32, 8, 32), (64, 0, 8, 8), (12, 1, 8, 8), (6, 3, 8, 6), (5, 0, 1, 1), (10, 10, 4, 10)],
)
def test_rounding_goes_up_and_never_beyond(full: int, left: int, to: int, expected: int) -> None:
    assert rounded(full, left, to) == expected


def scores() -> dict[Axis, torch.Tensor]:
    strong, weak = Axis(4), Axis(6)
    return {strong: torch.tensor([9.0, 10.0, 11.0, 10.0]), weak: torch.tensor([0.1, 3.0, 3.0, 0.2, 3.0, 3.0])}


def test_local_takes_the_same_share_of_every_axis() -> None:
    found = scores()
    strong, weak = found
    ranking = rank(found, "local", 1)
    assert ranking.by_ratio(0.5) == {strong: 2, weak: 3}
    assert ranking.keep({strong: 2, weak: 3}) == {strong: [1, 2], weak: [1, 2, 4]}


def test_global_compares_with_the_axis_mean() -> None:
    found = scores()
    strong, weak = found
    assert rank(found, "global", 1).by_ratio(0.2) == {strong: 4, weak: 4}


def test_budget_takes_the_fewest_removals() -> None:
    found = scores()
    strong, weak = found
    ranking = rank(found, "local", 1)
    sizes = ranking.by_budget(lambda s: s[strong] * s[weak] <= 12)
    assert sizes is not None
    assert sizes[strong] * sizes[weak] <= 12
    one_less = ranking.sizes(sum(a.size - n for a, n in sizes.items()) - 1)
    assert one_less[strong] * one_less[weak] > 12
    assert ranking.by_budget(lambda s: False) is None
