"""Scales fitted to integers: least squares, row by row."""

import pytest
import torch
from graphc.passes.quantize.refit import refit


def problem(rows: int = 6, blocks: int = 3, size: int = 4) -> tuple[torch.Tensor, ...]:
    """Weights, second moments of correlated inputs, steps and scales."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, blocks * size, dtype=torch.float64, generator=generator)
    inputs = torch.randn(blocks * size, 100, dtype=torch.float64, generator=generator).cumsum(0)
    scale = weight.unflatten(1, (blocks, size)).abs().amax(2, keepdim=True) / 7
    return weight, inputs @ inputs.t(), (weight.unflatten(1, (blocks, size)) / scale).round(), scale


def cost(weight: torch.Tensor, moments: torch.Tensor, steps: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    error = weight - (steps * scale).flatten(1)
    return ((error @ moments) * error).sum(1)


def test_no_scale_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moments, steps, scale = problem()
    found = refit(weight, moments, steps, scale)
    least = cost(weight, moments, steps, found)
    assert (least < cost(weight, moments, steps, scale)).all()
    for way in (1e-3, -1e-3):
        for block in range(3):
            other = found.clone()
            other[:, block] *= 1 + way
            assert (cost(weight, moments, steps, other) > least).all()
    monkeypatch.setattr("graphc.passes.quantize.refit.AT_ONCE", 18)  # two rows at once
    torch.testing.assert_close(refit(weight, moments, steps, scale), found)


def test_a_block_without_steps_and_one_that_would_turn_keep_their_scale() -> None:
    weight, moments, steps, scale = problem()
    steps[0, 1] = 0
    steps[1] = -steps[1]
    found = refit(weight, moments, steps, scale)
    assert found[0, 1] == scale[0, 1]
    assert (found > 0).all()
    assert (found[1] == scale[1]).any()
