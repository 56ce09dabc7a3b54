from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from graphc.passes.quantize.histogram import Histogram
from graphc.passes.quantize.squared_error import SquaredError, least_error

from tests.passes.quantize import distributions


def counted(values: torch.Tensor) -> Histogram:
    histogram = Histogram()
    histogram.add(values, float(values.abs().max()))
    return histogram


def plain(values: torch.Tensor, low: float, high: float, levels: int, symmetric: bool) -> float:
    """The squared error of quantising each value."""
    if symmetric:
        step, first = high / ((levels - 1) // 2), -(levels // 2)
    else:
        step = (high - low) / (levels - 1)
        first = -int(np.round(-low / step))
    real = values.double().numpy()
    return float(((np.clip(np.round(real / step), first, first + levels - 1) * step - real) ** 2).sum())


def limits(values: torch.Tensor, symmetric: bool) -> tuple[float, float]:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return (0.0, max(-low, high)) if symmetric else (low, high)


@pytest.mark.parametrize("name", distributions.NAMES)
@pytest.mark.parametrize(("levels", "symmetric"), [(256, False), (255, True), (256, True), (16, False), (15, True)])
def test_the_error_is_that_of_quantising_each_value(name: str, levels: int, symmetric: bool) -> None:
    values = distributions.draw(name)
    low, high = limits(values, symmetric)
    lows = torch.tensor([low, low / 2, low / 3, low / 7], dtype=torch.float64)
    highs = torch.tensor([high, high / 3, high / 2, high / 5], dtype=torch.float64)
    found = SquaredError(counted(values), levels, symmetric)(lows, highs).tolist()
    for a, b, error in zip(lows.tolist(), highs.tolist(), found, strict=True):
        assert error == pytest.approx(plain(values, a, b, levels, symmetric), rel=0.02)


@pytest.mark.parametrize("name", distributions.NAMES)
@pytest.mark.parametrize(("levels", "symmetric"), [(256, False), (255, True), (16, False), (15, True)])
def test_no_range_of_a_dense_grid_is_better(name: str, levels: int, symmetric: bool) -> None:
    values = distributions.draw(name, 4000)
    low, high = limits(values, symmetric)
    found = plain(values, *least_error(counted(values), low, high, levels, symmetric), levels, symmetric)
    ratios = np.geomspace(1, 0.02, 40)
    grid = itertools.product(ratios * low if low else [0.0], ratios * high if high else [0.0])
    best = min(plain(values, a, b, levels, symmetric) for a, b in grid)
    assert found <= 1.03 * best


def test_zeros_have_no_error() -> None:
    values = torch.cat([torch.zeros(10_000), torch.rand(100)])
    error = SquaredError(counted(values), 16, False)
    ends = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert float(error(*ends)) == pytest.approx(plain(values, 0.0, 1.0, 16, False), rel=0.2)
    assert float(error(*ends)) < 0.2


def test_sixteen_bits_are_searched_in_parts() -> None:
    values = distributions.draw("relu")
    low, high = least_error(counted(values), 0.0, float(values.max()), 1 << 16, False)
    assert low == 0
    assert 0.98 * float(values.max()) < high <= float(values.max())
