"""Grids of a weight's integers: what they reach, that zero is one of them, and that the search finds less error."""

import math

import pytest
import torch
from graphc.passes.quantize.grids import Grids
from graphc.passes.quantize.weights import Layout

ROWS, BLOCKS = Layout(0), Layout(0, 32)
KINDS = {
    "whole": Grids(Layout(None), 8),
    "rows": Grids(ROWS, 8),
    "seven bits": Grids(ROWS, 7),
    "columns": Grids(Layout(1), 8),
    "four bits in rows": Grids(ROWS, 4),
    "blocks": Grids(BLOCKS, 4),
    "blocks with zero points": Grids(BLOCKS, 4, True),
    "blocks of eight bits": Grids(BLOCKS, 8, True),
    "turned": Grids(Layout(1, 32), 4, True),
}


def heavy(*shape: int) -> torch.Tensor:
    """Numbers with heavy tails, a little above zero in the mean."""
    torch.manual_seed(0)
    return torch.randn(shape) * torch.rand(shape).square() + 0.05


def error(value: torch.Tensor, grids: Grids, least: bool, importance: torch.Tensor | None = None) -> float:
    data = grids.layout.blocked(value)
    numbers = grids.least_error(data, importance) if least else grids.whole(data)
    found = grids.rounded(data, numbers).real() - value
    weights = 1 if importance is None else grids.layout.joined(importance.expand(data.shape))
    return float((found.double().square() * weights).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_grids_reach_what_they_are_for(kind: str) -> None:
    grids, value = KINDS[kind], heavy(64, 96)
    data = grids.layout.blocked(value)
    numbers = grids.whole(data)
    found = grids.rounded(data, numbers)
    assert found.integers.shape == data.shape
    assert found.real().shape == value.shape
    assert numbers.scale.numel() == data.numel() // math.prod(data.shape[d] for d in grids.layout.shared(data))
    integers = found.integers.int()
    assert numbers.low <= int(integers.min()) <= int(integers.max()) <= numbers.high
    assert found.packed == (grids.bits == 4 and grids.layout.block is not None)
    assert float(((found.real() - value).abs() / grids.layout.joined(numbers.scale.expand(data.shape))).max()) <= (
        1.0 if grids.free else 0.5001
    )
    assert numbers.zero_point.unique().numel() > 1 if grids.free else numbers.zero_point.unique().numel() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_zero_stays_zero(kind: str) -> None:
    grids, value = KINDS[kind], heavy(64, 96)
    value[torch.rand(64, 96) < 0.5] = 0
    value[3] = 0
    value[5] = value[5].abs() + 0.1  # zero lies beyond its numbers
    data = grids.layout.blocked(value)
    for numbers in (grids.whole(data), grids.least_error(data)):
        assert not grids.rounded(data, numbers).real()[value == 0].any()


@pytest.mark.parametrize(
    ("kind", "gain"), [("blocks", 0.9), ("blocks with zero points", 0.97), ("four bits in rows", 0.92)]
)
def test_less_error_is_found(kind: str, gain: float) -> None:
    value = heavy(64, 96)
    assert error(value, KINDS[kind], True) < gain * error(value, KINDS[kind], False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_is_never_worse_than_the_whole_range(kind: str) -> None:
    value = torch.linspace(-1, 1, 64 * 96)[torch.randperm(64 * 96)].reshape(64, 96)
    assert error(value, KINDS[kind], True) <= error(value, KINDS[kind], False) * (1 + 1e-6)


def test_zero_points_help_where_numbers_are_mostly_of_one_sign() -> None:
    value = heavy(64, 96) + 0.5
    assert error(value, KINDS["blocks with zero points"], True) < 0.5 * error(value, KINDS["blocks"], True)


def test_entries_count_as_much_as_is_said() -> None:
    value, grids = heavy(64, 96), KINDS["blocks with zero points"]
    importance = torch.ones(1, 3, 32)
    importance[:, :, :4] = 100
    data = grids.layout.blocked(value)
    by_all = grids.rounded(data, grids.least_error(data)).real() - value
    by_importance = grids.rounded(data, grids.least_error(data, importance)).real() - value
    weights = importance.expand(data.shape).flatten(1)
    assert float((by_importance.square() * weights).sum()) < 0.9 * float((by_all.square() * weights).sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scales_have_the_type_of_the_weight(dtype: torch.dtype) -> None:
    value, grids = heavy(8, 64).to(dtype), KINDS["blocks with zero points"]
    found = grids.rounded(value.unflatten(1, (2, 32)), grids.least_error(value.unflatten(1, (2, 32))))
    assert found.numbers.scale.dtype == found.real().dtype == dtype
    assert float((found.real() - value).abs().max()) < 0.5
