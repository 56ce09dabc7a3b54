"""GPTQ against the same computed plainly, and what it must hold to."""

import pytest
import torch
from graphc.passes.quantize.gptq import DAMPENING, Blocks, gptq

from graphc.errors import GraphError

LIMITS = (0, 15)


def problem(groups: int = 2, rows: int = 5, columns: int = 12) -> tuple[torch.Tensor, ...]:
    """A weight, second moments of correlated inputs, and grids of four bits."""
    torch.manual_seed(0)
    weight = torch.randn(groups, rows, columns, dtype=torch.float64)
    inputs = torch.randn(groups, columns, columns, dtype=torch.float64) @ torch.randn(
        groups, columns, 200, dtype=torch.float64
    )
    low, high = (v.expand_as(weight) for v in (weight.amin(2, keepdim=True), weight.amax(2, keepdim=True)))
    scale = (high - low) / 15
    return weight, inputs @ inputs.transpose(1, 2), scale, (-low / scale).round()


def plainly(weight: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Optimal brain surgery of one row: after each rounding the rest is what costs least with it fixed."""
    order = moments.diagonal().argsort(descending=True).tolist()
    hessian = moments + DAMPENING * moments.diagonal().mean() * torch.eye(len(weight), dtype=weight.dtype)
    left, found = weight.clone(), torch.zeros_like(weight)
    for position, i in enumerate(order):
        found[i] = ((left[i] / scale[i]).round() + zero[i]).clamp(*LIMITS)
        rest = order[position + 1 :]
        error = left[i] - (found[i] - zero[i]) * scale[i]
        if rest:  # least (d_i, d_rest) H (d_i, d_rest)^T with d_i given
            left[rest] += torch.linalg.solve(hessian[rest][:, rest], hessian[rest, i] * error)
    return found


def cost(
    weight: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, found: torch.Tensor
) -> float:
    error = weight - (found - zero) * scale
    return float(((error @ moments) * error).sum())


def test_it_is_optimal_brain_surgery_column_by_column() -> None:
    weight, moments, scale, zero = problem()
    moments = torch.stack([m * s for m, s in zip(moments, (1.0, 1e-4), strict=True)])
    found = gptq(weight[:1], moments[:1], scale[:1], zero[:1], LIMITS)[0]
    expected = torch.stack([plainly(weight[0, r], moments[0], scale[0, r], zero[0, r]) for r in range(5)])
    assert torch.equal(found, expected)
    nearest = ((weight[0] / scale[0]).round() + zero[0]).clamp(*LIMITS)
    own = (weight[0], moments[0], scale[0], zero[0])
    assert cost(*own, found) < 0.5 * cost(*own, nearest)


def test_columns_beyond_one_block_are_made_good_too(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = problem(columns=30)
    whole = gptq(*parts, LIMITS)
    for together in (1, 7, 30):
        monkeypatch.setattr("graphc.passes.quantize.gptq.TOGETHER", together)
        assert torch.equal(gptq(*parts, LIMITS), whole)


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    weight, _, scale, zero = problem()
    moments = torch.diag_embed(torch.rand(2, 12, dtype=torch.float64) + 0.1)
    nearest = ((weight / scale).round() + zero).clamp(*LIMITS)
    assert torch.equal(gptq(weight, moments, scale, zero, LIMITS), nearest)


def test_zero_stays_zero_and_its_error_is_made_good() -> None:
    weight, moments, scale, zero = problem(rows=20, columns=24)
    weight = weight * (torch.rand(weight.shape) < 0.5)
    found = gptq(weight, moments, scale, zero, LIMITS)
    assert torch.equal(found[weight == 0], zero[weight == 0])
    nearest = ((weight / scale).round() + zero).clamp(*LIMITS)
    own = (weight[0], moments[0], scale[0], zero[0])
    assert cost(*own, found[0]) < cost(*own, nearest[0])


def test_inputs_that_never_came_do_not_matter() -> None:
    weight, moments, scale, zero = problem()
    moments[:, 4], moments[:, :, 4] = 0, 0
    found = gptq(weight, moments, scale, zero, LIMITS)
    nearest = ((weight / scale).round() + zero).clamp(*LIMITS)
    assert torch.equal(found[:, :, 4], nearest[:, :, 4])
    silent = gptq(weight, torch.zeros_like(moments), scale, zero, LIMITS)
    assert torch.equal(silent, nearest)


def test_fewer_samples_than_columns_will_do() -> None:
    weight, _, scale, zero = problem(1, 4, 40)
    inputs = torch.randn(1, 40, 3, dtype=torch.float64)
    moments = inputs @ inputs.transpose(1, 2)
    own = (weight[0], moments[0], scale[0], zero[0])
    nearest = ((weight / scale).round() + zero).clamp(*LIMITS)
    assert cost(*own, gptq(weight, moments, scale, zero, LIMITS)[0]) < 0.1 * cost(*own, nearest[0])


def test_what_is_no_second_moment_is_refused() -> None:
    weight, moments, scale, zero = problem()
    with pytest.raises(GraphError, match="GPTQ cannot round") as caught:
        gptq(weight, -moments, scale, zero, LIMITS, "some.weight")
    assert caught.value.where == "some.weight"


def test_blocks_choose_their_grids_for_what_their_columns_have_become() -> None:
    weight, moments, scale, zero = problem(groups=1, columns=24)
    seen: list[tuple[list[int], torch.Tensor]] = []

    def fit(columns: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((columns.tolist(), rows.clone()))
        low, high = rows.amin(2, keepdim=True), rows.amax(2, keepdim=True)
        return (high - low) / 15, (-low * 15 / (high - low)).round()

    found = gptq(weight, moments, scale, zero, LIMITS, blocks=Blocks(6, fit))
    importance = moments[0].diagonal()
    assert [sorted(columns) for columns, _ in seen] == [
        list(range(6 * b, 6 * b + 6)) for b in importance.view(4, 6).sum(1).argsort(descending=True).tolist()
    ]
    assert all(importance[columns].diff().le(0).all() for columns, _ in seen)
    first, second = (rows for _, rows in seen[:2])
    assert torch.equal(first[0], weight[0][:, seen[0][0]])
    assert not torch.allclose(second[0], weight[0][:, seen[1][0]])  # it makes good what the first lost
    real = torch.empty_like(weight)
    for columns, rows in list(seen):
        own_scale, own_zero = fit(torch.tensor(columns), rows)
        real[:, :, columns] = (found[:, :, columns] - own_zero) * own_scale
    nearest = ((weight / scale).round() + zero).clamp(*LIMITS)
    error, other = ((v - weight)[0] for v in (real, (nearest - zero) * scale))
    assert ((error @ moments[0]) * error).sum() < 0.5 * ((other @ moments[0]) * other).sum()
