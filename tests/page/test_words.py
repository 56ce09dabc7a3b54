from __future__ import annotations

import pytest

from graphc.page import words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (532, "532"), (1270, "1.27 k"), (22_713_216, "22.7 M"), (104_495_616, "104 M"), (7.06e10, "70.6 G")],
)
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert words.count(value) == text


def test_bytes_times_and_shares_have_their_units() -> None:
    assert words.memory(90_861_056) == "90.9 MB"
    assert words.memory(12) == "12 B"
    assert words.milliseconds(0.01234) == "0.0123 ms"
    assert words.milliseconds(123.4) == "123 ms"
    assert words.share(0.4642) == "46.4 %"
    assert words.change(3.0, 2.0, words.count) == "\N{MINUS SIGN}1"
    assert words.change(2.0, 2.0, words.count) == "no change"


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (["a.0.q", "a.1.q", "b", "a.2.q"], ["a.{0..2}.q", "b"]),
        (["a.0.q", "a.2.q", "a.3.q"], ["a.{0,2..3}.q"]),
        (["l1.0.c", "l1.1.c", "l2.0.c"], ["l1.{0..1}.c", "l2.0.c"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"], ["a.{0..1}.b.{0..1}"]),
        (["a.0.b.0", "a.1.b.2"], ["a.*.b.*"]),
        (["x.0 of x.0", "x.1 of x.1"], ["x.{0..1} of x.{0..1}"]),
        (["conv1", "conv2"], ["conv1", "conv2"]),
        (["a#0", "a#1"], ["a#0"]),
        ([], []),
    ],
)
def test_names_that_differ_in_numbers_are_one(names: list[str], texts: list[str]) -> None:
    found = words.families(names)
    assert [family.text for family in found] == texts
    assert sorted(name for family in found for name in family.names) == sorted(names)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 225e6), (0.93, 0.97), (-3, 2), (5, 5), (1e-9, 3e-9)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = words.ticks(low, high)
    assert 1 <= len(found) <= 6
    assert low - 1e-12 <= found[0] <= found[-1] <= high + 1e-12
