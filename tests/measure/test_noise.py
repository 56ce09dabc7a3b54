"""Noise: sums that do not depend on how a value is cut into parts."""

from __future__ import annotations

import math

import pytest
import torch

from graphc.measure import noise
from graphc.measure.noise import Noise, decibels, relative, units_of


def test_decibels() -> None:
    assert decibels(100, 1) == pytest.approx(20)
    assert (decibels(0, 0), decibels(0, 1), decibels(1, math.inf)) == (math.inf, -math.inf, -math.inf)
    assert relative(decibels(8, 2)) == pytest.approx(0.25)
    assert (relative(math.inf), relative(-math.inf)) == (0, math.inf)


def test_units() -> None:
    assert units_of(("batch", 24, 7, 9)) == [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3)]
    assert units_of(("batch", "sequence", 4, 8)) == [(2,), (3,), (2, 3)]
    assert units_of(("batch", "sequence", 32)) == [(2,)]
    assert units_of(("batch", 32)) == [(1,)]
    assert units_of(("batch",)) == units_of(()) == []


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (6, 3, 4), (1, 5000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int64])
def test_parts_do_not_matter(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (torch.randn(shape) * 9).to(dtype)
    y = (torch.randn(shape) * 9).to(dtype)
    expected = Noise()
    expected.add(x, y)
    monkeypatch.setattr(noise, "CHUNK", 7)
    found = Noise()
    found.add(x, y)
    assert found.sqnr_db == pytest.approx(expected.sqnr_db)
    assert found.largest == expected.largest
    if x.numel():
        wide = torch.complex128 if dtype.is_complex else torch.float64
        assert found.signal == pytest.approx(float(x.to(wide).abs().square().sum()))
        assert found.noise == pytest.approx(float((x.to(wide) - y.to(wide)).abs().square().sum()))


@pytest.mark.parametrize(("dims", "shape"), [((1,), (9, 4, 3)), ((2,), (9, 4, 3)), ((1, 2), (9, 4, 3))])
def test_a_factor_for_each_unit(dims: tuple[int, ...], shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    factors = torch.rand([size if dim in dims else 1 for dim, size in enumerate(shape)], dtype=torch.float64) + 2
    for error, least in ((0.0, 100.0), (0.02, 28.0)):
        sums = Noise(units_of(("batch", 4, 3)))
        for part in x.split([2, 7]):
            sums.add(part, part * factors * (1 + error * torch.randn_like(part)))
        assert sums.sqnr_db < 0
        assert least < sums.scaled_db
        assert error == 0 or sums.scaled_db < 45


def test_factors_that_could_be_anything() -> None:
    few = Noise([(1, 2)])
    few.add(torch.randn(1, 4, 3), torch.randn(1, 4, 3))
    assert few.scaled_db == -math.inf
    chance = Noise([(1, 2)])
    chance.add(torch.randn(2, 40, 30), torch.randn(2, 40, 30))
    assert -1 < chance.scaled_db < 1
    near = Noise([(1,)])
    x = torch.randn(50, 3)
    near.add(x, x * 1.001)
    assert near.scaled_db == -math.inf
    assert near.sqnr_db > 50
