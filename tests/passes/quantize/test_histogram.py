from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from graphc.passes.quantize.histogram import BINS, CHUNK, Histogram, quantile
from torch.utils._python_dispatch import TorchDispatchMode

from tests.passes.quantize import distributions


def counted(*batches: torch.Tensor) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch, float(batch.abs().max()))
    return histogram


def plain(values: torch.Tensor, width: float) -> np.ndarray[Any, Any]:
    """Bins in double precision, all values at once."""
    real = values.double().numpy() / width
    places = np.sign(real) * np.ceil(np.abs(real))
    return np.histogram(places, bins=np.arange(-BINS, BINS + 2) - 0.5)[0]


@pytest.mark.parametrize("name", distributions.NAMES)
def test_counts_are_those_of_numpy(name: str) -> None:
    values = distributions.draw(name)
    histogram = counted(values)
    assert BINS / 2 <= float(values.abs().max()) / histogram.width < BINS
    assert np.array_equal(histogram.counts.numpy(), plain(values, histogram.width))


@pytest.mark.parametrize("sizes", [[1, 100_002], [50_000, 50_003], [97] * 1030 + [93]])
def test_batches_in_any_order_give_the_same_counts(sizes: list[int]) -> None:
    values = distributions.draw("heavy").sort().values.roll(50_000)  # the largest numbers come in the middle
    whole, parts = counted(values), counted(*values.split(sizes))
    assert whole.exponent == parts.exponent
    assert torch.equal(whole.counts, parts.counts)


@pytest.mark.parametrize("largest", [2.0**20, 3e38])
def test_a_far_larger_number_loses_no_other(largest: float) -> None:
    values = distributions.draw("normal")
    histogram = counted(values, torch.tensor([largest, 0.0, -0.0]), values)
    assert histogram.counts[BINS] == 2
    assert histogram.counts[:BINS].sum() == 2 * (values < 0).sum()
    assert histogram.counts[BINS + 1 :].sum() == 2 * (values > 0).sum() + 1
    whole = counted(torch.cat([values, values, torch.tensor([largest, 0.0, 0.0])]))
    assert torch.equal(histogram.counts, whole.counts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_counts_exactly(dtype: torch.dtype) -> None:
    values = (distributions.draw("bimodal") * 3000).to(dtype)
    histogram = counted(values)
    assert np.array_equal(histogram.counts.numpy(), plain(values, histogram.width))


def test_sides_go_outward_from_zero_in_wider_bins() -> None:
    values = distributions.draw("bimodal")
    histogram = counted(values)
    below, zeros, above = histogram.sides(4)
    wide = plain(values, 4 * histogram.width)
    assert len(below) == len(above) == BINS // 4
    assert int(zeros) == 0
    assert np.array_equal(above[:100].numpy(), wide[BINS + 1 : BINS + 101])
    assert np.array_equal(below[:100].numpy(), wide[BINS - 100 : BINS][::-1])


@pytest.mark.parametrize("share", [1e-6, 0.001, 0.3, 0.5, 0.9, 0.9999, 1.0])
def test_quantiles_are_those_of_numpy_within_a_bin(share: float) -> None:
    for name in distributions.NAMES:
        values = distributions.draw(name)
        histogram = counted(values)
        exact = np.percentile(values.double().numpy(), 100 * share, method="inverted_cdf")
        found = quantile(histogram.counts, BINS, share) * histogram.width
        assert abs(found - exact) <= histogram.width * (1 + 1e-9), name


class Largest(TorchDispatchMode):
    """The most bytes that an op's new result takes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        new = isinstance(result, torch.Tensor) and not result._is_view()
        self.bytes = max(self.bytes, result.numel() * result.element_size() if new else 0)
        return result


def test_memory_is_the_same_for_more_values() -> None:
    histogram, values = Histogram(), torch.randn(3 * CHUNK)
    with Largest() as largest:
        histogram.add(values, 8.0)
    assert largest.bytes <= 8 * max(CHUNK, 2 * BINS + 1)
    for scale in (1, 10, 1000):
        histogram.add(values * scale, 8.0 * scale)
        assert histogram.counts.shape == (2 * BINS + 1,)
        assert histogram.counts.untyped_storage().nbytes() == 8 * (2 * BINS + 1)
    assert int(histogram.counts.sum()) == 4 * len(values)
