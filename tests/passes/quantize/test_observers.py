from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.quantize.observers import METHODS, CalibrationError, Observer

from graphc.errors import RecipeError
from tests.passes.quantize import distributions

EVERY = pytest.mark.parametrize("method", METHODS)
SYMMETRIC = pytest.mark.parametrize("symmetric", [False, True])


def observer(method: str, *batches: torch.Tensor, **options: Any) -> Observer:
    made = METHODS[method](name="layer1.conv", **options)
    for batch in batches:
        made.see(batch)
    return made


def extremes(values: torch.Tensor, symmetric: bool) -> tuple[float, float]:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


def error(values: torch.Tensor, low: float, high: float) -> float:
    """Mean squared error of 256 levels."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    real = values.double()
    return float(((((real / scale).round() + zero).clamp(0, 255) - zero) * scale - real).square().mean())


@EVERY
@SYMMETRIC
@pytest.mark.parametrize("name", distributions.NAMES)
def test_a_range_holds_zero_and_nothing_unseen(method: str, symmetric: bool, name: str) -> None:
    values = distributions.draw(name)
    low, high = observer(method, *values.split(30_000), symmetric=symmetric).range()
    least, greatest = extremes(values, symmetric)
    assert least <= low <= 0 <= high <= greatest
    assert low < high
    assert not symmetric or low == -high


@pytest.mark.parametrize("method", [m for m in METHODS if m != "moving-average"])
@SYMMETRIC
@pytest.mark.parametrize("name", distributions.NAMES)
def test_batches_are_as_good_as_all_at_once(method: str, symmetric: bool, name: str) -> None:
    values = distributions.draw(name)
    whole = observer(method, values, symmetric=symmetric).range()
    assert observer(method, *values.split(999), symmetric=symmetric).range() == whole
    assert observer(method, *values.flip(0).split(70_000), symmetric=symmetric).range() == whole


@SYMMETRIC
@pytest.mark.parametrize("name", distributions.NAMES)
def test_minmax(symmetric: bool, name: str) -> None:
    values = distributions.draw(name)
    assert observer("minmax", *values.split(1000), symmetric=symmetric).range() == extremes(values, symmetric)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_moving_average(momentum: float) -> None:
    batches = distributions.draw("bimodal").split(25_001)
    ends = np.array([[float(b.min()), float(b.max())] for b in batches])
    weights = np.array([momentum ** (len(ends) - 1 - i) * ((1 - momentum) if i else 1) for i in range(len(ends))])
    expected = weights @ ends
    assert weights.sum() == pytest.approx(1)
    assert observer("moving-average", *batches, momentum=momentum).range() == pytest.approx(tuple(expected))
    half = float(np.abs(expected).max())
    symmetric = observer("moving-average", *batches, momentum=momentum, symmetric=True)
    assert symmetric.range() == pytest.approx((-half, half))


def test_a_moving_average_reaches_zero() -> None:
    low, high = observer("moving-average", torch.tensor([2.0, 4.0]), torch.tensor([3.0, 4.0])).range()
    assert (low, high) == (0, pytest.approx(4.0))


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
@pytest.mark.parametrize("name", distributions.NAMES)
def test_percentile_is_numpys_within_a_bin(percentile: float, name: str) -> None:
    values = distributions.draw(name).double().numpy()
    bin = np.abs(values).max() / 4096
    rest = 100 - percentile
    if values.min() < 0 < values.max():
        expected = np.percentile(values, [rest / 2, 100 - rest / 2], method="inverted_cdf")
    elif values.max() > 0:
        expected = np.array([0.0, np.percentile(values, percentile, method="inverted_cdf")])
    else:
        expected = np.array([np.percentile(values, rest, method="inverted_cdf"), 0.0])
    expected = np.clip(expected, [-np.inf, 0.0], [0.0, np.inf])
    batches = torch.from_numpy(values).float().split(5000)
    assert observer("percentile", *batches, percentile=percentile).range() == pytest.approx(tuple(expected), abs=bin)
    half = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    found = observer("percentile", *batches, percentile=percentile, symmetric=True).range()
    assert found == pytest.approx((-half, half), abs=bin)


@SYMMETRIC
@pytest.mark.parametrize("name", distributions.NAMES)
def test_all_percent_are_all_that_was_seen(symmetric: bool, name: str) -> None:
    values = distributions.draw(name)
    found = observer("percentile", values, percentile=100, symmetric=symmetric).range()
    assert found == extremes(values, symmetric)


@SYMMETRIC
def test_entropy_leaves_outliers_out_and_little_else(symmetric: bool) -> None:
    for outliers in (4, 20):
        values = distributions.draw("normal")
        values[:outliers] = torch.tensor([40.0, -40.0]).repeat(outliers // 2)
        low, high = observer("entropy", values, symmetric=symmetric).range()
        assert -12 < low < -2.5
        assert 2.5 < high < 12


def test_entropy_keeps_a_plain_shape_nearly_whole() -> None:
    values = 4 * torch.rand(distributions.SIZE) - 1
    low, high = observer("entropy", values).range()
    assert low == pytest.approx(-1, abs=0.01)
    assert high == pytest.approx(3, abs=0.1)


def test_zeros_and_numbers_near_them_do_not_sway_entropy() -> None:
    values = distributions.draw("relu")
    alone = observer("entropy", values).range()
    assert observer("entropy", values, torch.zeros(1_000_000)).range() == alone
    assert observer("entropy", values, torch.full((1_000_000,), 1e-5)).range() == alone


@pytest.mark.parametrize("name", ["heavy", "normal", "relu", "gelu", "outliers"])
def test_least_error_beats_all_other_methods(name: str) -> None:
    values = distributions.draw(name)
    errors = {method: error(values, *observer(method, *values.split(9999)).range()) for method in METHODS}
    assert errors["mse"] <= 1.01 * min(errors.values())
    assert errors["mse"] < 0.95 * errors["minmax"]


@EVERY
def test_layout_and_precision_change_nothing(method: str) -> None:
    values = distributions.draw("bimodal", 4096).bfloat16().float()
    plain = observer(method, values).range()
    image = values.reshape(2, 8, 16, 16)
    assert observer(method, image.transpose(1, 3)).range() == plain
    assert observer(method, image.contiguous(memory_format=torch.channels_last)).range() == plain
    assert observer(method, values.bfloat16()).range() == plain
    assert observer(method, values.double()).range() == plain
    assert observer(method, values.requires_grad_()).range() == plain
    if method != "moving-average":
        assert observer(method, *values.detach()[:100].unbind(), values[100:], values[:0]).range() == plain


@EVERY
@SYMMETRIC
@pytest.mark.parametrize("size", [3e38, 1e-25])
def test_very_large_and_small_numbers(method: str, symmetric: bool, size: float) -> None:
    values = torch.tensor([-1.0, 0.2, 0.4, 1.0]).repeat(500)
    ordinary = observer(method, values, symmetric=symmetric).range()
    scaled = observer(method, values * size, symmetric=symmetric).range()
    assert [end / size for end in scaled] == pytest.approx(ordinary, rel=0.02)


@EVERY
def test_two_numbers_are_enough(method: str) -> None:
    for values in (torch.tensor([0.0, 3.0]), torch.tensor([-3.0, 0.0]), torch.tensor([2.0, 3.0])):
        assert observer(method, values, levels=16).range() == pytest.approx(extremes(values, False), rel=0.1)


@EVERY
@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (torch.tensor([1.0, float("nan"), 2.0]), "NaN"),
        (torch.tensor([1.0, float("inf")]), "infinite"),
        (torch.tensor([-float("inf"), 1.0], dtype=torch.float16), "infinite"),
    ],
)
def test_numbers_that_are_not_finite_are_refused_at_once(method: str, batch: torch.Tensor, why: str) -> None:
    with pytest.raises(CalibrationError, match=rf"(?s)layer1\.conv.*{why}"):
        observer(method, torch.tensor([1.0, 2.0]), batch)


@EVERY
@pytest.mark.parametrize(
    ("batches", "why"),
    [
        ([], "never seen"),
        ([torch.zeros(0, 4)], "never seen"),
        ([torch.zeros(5), torch.zeros(2)], "0 throughout"),
        ([torch.full((5,), 2.5), torch.tensor(2.5)], r"2\.5 throughout"),
        ([torch.tensor([1e-40, 0.0])], "no step in float32"),
    ],
)
def test_ranges_that_cannot_be_are_refused(method: str, batches: list[torch.Tensor], why: str) -> None:
    with pytest.raises(CalibrationError, match=rf"(?s)layer1\.conv.*{why}"):
        observer(method, *batches).range()


@SYMMETRIC
def test_a_percentile_of_zero_is_no_range(symmetric: bool) -> None:
    values = torch.zeros(100_000)
    values[:2] = torch.tensor([1.0, -1.0])
    with pytest.raises(CalibrationError, match=r"99\.99 % of its numbers are zero"):
        observer("percentile", values, symmetric=symmetric).range()


@pytest.mark.parametrize(
    ("method", "options"),
    [("percentile", {"percentile": 0}), ("percentile", {"percentile": 101}), ("moving-average", {"momentum": 1})],
)
def test_options_that_mean_nothing_are_refused(method: str, options: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        METHODS[method](name="x", **options)


@EVERY
def test_an_observer_keeps_the_same_memory_however_much_it_sees(method: str) -> None:
    def kept() -> int:
        """Bytes of tensors that the observer holds."""
        found, todo = {}, [made]
        while todo:
            todo += [r for r in gc.get_referents(todo.pop()) if isinstance(r, (dict, list, torch.Tensor)) or vars_of(r)]
            found.update({id(t): t.untyped_storage().nbytes() for t in todo if isinstance(t, torch.Tensor)})
        return sum(found.values())

    def vars_of(thing: object) -> bool:
        return type(thing).__module__.startswith("graphc.passes") and not isinstance(thing, type)

    made = observer(method, torch.randn(100))
    before = kept()
    for scale in range(1, 50):
        made.see(torch.randn(10_000) * scale)
    assert kept() == before <= 200_000
