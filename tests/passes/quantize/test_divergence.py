from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from graphc.passes.quantize.divergence import Divergence, least_divergent

from tests.passes.quantize import distributions


def histogram(name: str, bins: int = 180) -> tuple[torch.Tensor, int]:
    """Counts of equal bins that meet at zero, and the bin that begins there."""
    values = distributions.draw(name, 20_000).double().numpy()
    width = np.abs(values).max() / bins
    below, above = (math.ceil(max(0, side) / width - 1e-9) for side in (-values.min(), values.max()))
    counts, _ = np.histogram(values[values != 0], bins=below + above, range=(-below * width, above * width))
    return torch.from_numpy(counts), below


def plain(counts: torch.Tensor, start: int, end: int, levels: int) -> float:
    """Migacz 2017, bin by bin."""
    h = counts.double().tolist()
    p = h[start:end]
    p[0] += sum(h[:start])
    p[-1] += sum(h[end:])
    q = [0.0] * len(p)
    for level in range(levels):
        cell = [i for i in range(len(p)) if i * levels // len(p) == level]
        kept = [i for i in cell if p[i] > 0]
        for i in kept:
            q[i] = sum(h[start + j] for j in cell) / len(kept)
    p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
    return sum(x * (math.log(x / y) if y else math.inf) for x, y in zip(p, q, strict=True) if x)


@pytest.mark.parametrize("name", distributions.NAMES)
@pytest.mark.parametrize("levels", [8, 31, 64])
def test_every_candidate_is_that_of_plain_sums(name: str, levels: int) -> None:
    counts, zero = histogram(name)
    reach = range(1, max(zero, len(counts) - zero) + 1)
    ranges = [(max(0, zero - r), min(len(counts), zero + r)) for r in reach]
    ranges = [(start, end) for start, end in ranges if end - start >= levels]
    starts, ends = torch.tensor(ranges).unbind(1)
    expected = torch.tensor([plain(counts, start, end, levels) for start, end in ranges], dtype=torch.float64)
    assert torch.allclose(Divergence(counts, levels)(starts, ends), expected, rtol=1e-9, atol=1e-12)
    chosen = least_divergent(counts, zero, levels)
    best = ranges[int(expected.argmin())]
    assert (max(0, zero - chosen), min(len(counts), zero + chosen)) == best


def test_what_lies_outside_must_have_a_level() -> None:
    counts = torch.tensor([4, 3, 2, 0, 0, 0, 0, 1])
    values = Divergence(counts, 2)(torch.tensor([0, 0, 0]), torch.tensor([4, 6, 8]))
    assert values.isinf().tolist() == [False, True, False]


def test_of_equal_ranges_the_greatest_is_taken() -> None:
    counts = torch.tensor([0, 0, 0, 0, 1, 0, 0, 1])  # one value or both in the last bin: the same distribution
    assert Divergence(counts, 4)(torch.tensor([0, 0]), torch.tensor([5, 8])).abs().max() < 1e-12
    assert least_divergent(counts, 0, 4) == 8


def test_fewer_bins_than_levels_leave_nothing_out() -> None:
    assert least_divergent(torch.tensor([5, 3, 1]), 0, 256) == 3
