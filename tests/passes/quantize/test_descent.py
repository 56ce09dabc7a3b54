"""Coordinate descent against trying every integer."""

import pytest
import torch
from graphc.passes.quantize import descent
from graphc.passes.quantize.descent import descend
from graphc.passes.quantize.gptq import gptq

LIMITS = (0, 15)


def problem(rows: int = 6, columns: int = 20) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    weight = torch.randn(rows, columns, dtype=torch.float64)
    inputs = torch.randn(columns, columns, dtype=torch.float64) @ torch.randn(columns, 200, dtype=torch.float64)
    low, high = (v.expand_as(weight) for v in (weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)))
    scale = (high - low) / 15
    return weight, inputs @ inputs.t(), scale, (-low / scale).round()


def cost(
    weight: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, q: torch.Tensor
) -> float:
    error = weight - (q - zero) * scale
    return float(((error @ moments) * error).sum())


@pytest.mark.parametrize("together", [1, 7, 64])
def test_each_integer_is_the_best_with_those_before_it_changed(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "TOGETHER", together)
    weight, moments, scale, zero = problem()
    start = ((weight / scale).round() + zero).clamp(*LIMITS)
    expected = start.clone()
    for row in range(len(weight)):
        for column in range(weight.shape[1]):
            tried = expected[row].repeat(16, 1)
            tried[:, column] = torch.arange(16)
            error = weight[row] - (tried - zero[row]) * scale[row]
            expected[row, column] = ((error @ moments) * error).sum(1).argmin()
    assert torch.equal(descend(weight, moments, start, scale, zero, LIMITS), expected)


def test_it_makes_nothing_worse_and_leaves_zeros() -> None:
    weight, moments, scale, zero = problem(20, 40)
    weight = weight * (torch.rand(weight.shape) < 0.7)
    own = (weight, moments, scale, zero)
    nearest = ((weight / scale).round() + zero).clamp(*LIMITS)
    found = descend(weight, moments, nearest, scale, zero, LIMITS)
    assert torch.equal(found[weight == 0], zero[weight == 0])
    assert cost(*own, found) < 0.9 * cost(*own, nearest)
    begun = gptq(weight[None], moments[None], scale[None], zero[None], LIMITS)[0]
    assert cost(*own, descend(weight, moments, begun, scale, zero, LIMITS)) <= cost(*own, begun)
