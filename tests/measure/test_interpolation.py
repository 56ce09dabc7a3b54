"""Interpolation: exact sums of products are found again, with the steps of the kernel."""

from __future__ import annotations

import itertools

import pytest

from graphc.measure.interpolation import Curve, kernel_class
from tests.measure.tables import STEP, made_up

SIZES = tuple(itertools.product((8, 24, 40, 48, 64), (16, 40, 56, 64, 96)))


def test_times_with_steps_are_found_again_between_measurements() -> None:
    curve = Curve(SIZES, tuple(map(made_up, SIZES)))
    for sizes in itertools.product((16, 32, 56), (24, 48, 80)):
        assert curve(sizes) == pytest.approx(made_up(sizes), rel=0.02)


def test_a_step_costs_nothing_up_to_the_next_multiple() -> None:
    sizes = tuple((size,) for size in (8, 16, 24, 40, 64, 96, 104, 128))
    curve = Curve(sizes, tuple(made_up((*size, 256)) for size in sizes))
    assert curve((STEP * 3 - 7,)) == pytest.approx(curve((STEP * 3,)))
    assert curve((STEP * 3 + 1,)) > 1.1 * curve((STEP * 3,))


def test_without_steps_times_are_straight() -> None:
    sizes = tuple((size,) for size in (8, 16, 24, 40, 64, 96, 104, 128))
    curve = Curve(sizes, tuple(0.2 + 0.01 * size for (size,) in sizes))
    assert curve((50,)) == pytest.approx(0.7, rel=0.02)


def test_what_the_sum_misses_comes_from_the_nearest_measurements() -> None:
    times = [made_up(s) * (1.5 if s == (48, 96) else 1.0) for s in SIZES]
    curve = Curve(SIZES, tuple(times))
    assert curve((48, 96)) == pytest.approx(times[SIZES.index((48, 96))], rel=0.02)
    assert curve((8, 16)) == pytest.approx(made_up((8, 16)), rel=0.1)


def test_one_measurement_and_none_of_free_sizes() -> None:
    assert Curve(((64,),), (2.0,))((64,)) == pytest.approx(2.0, rel=0.01)
    assert Curve(((),), (0.3,))(()) == pytest.approx(0.3, rel=0.01)


def test_convolutions_of_odd_channels_have_kernels_of_their_own() -> None:
    assert kernel_class("conv2d(", (64, 93)) != kernel_class("conv2d(", (64, 96))
    assert kernel_class("linear(", (64, 93)) == kernel_class("linear(", (64, 96))
