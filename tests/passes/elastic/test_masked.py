"""Masks: a program with masks is each of its sub-networks, in evaluation and in training, and plain again without."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from graphc.passes.elastic import find_space, subnetwork
from graphc.passes.elastic.masked import GATE, MASK, Masks, masked, unmasked
from torch import Tensor

import graphc
from graphc.ir.edit import set_training
from tests import models
from tests.passes.elastic import nets

WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "supernet": (lambda: small_supernet(), {"expand": [6, 4, 3]}),
    "plain": (models.residual, {"kernel": [3, 1], "width": [1, 0.5, 0.25], "round_to": 1}),
    "grouped": (
        lambda: graphc.capture(models.seeded(models.Grouped), (models.image(),)),
        {"kernel": [3, 1], "width": [1, 0.7, 0.3], "round_to": 1},
    ),
    "transformer": (models.transformer, {"inner": [1, 0.5], "depth": [1, 2], "round_to": 1}),
}


@functools.cache
def small_supernet() -> graphc.Program:
    return nets.captured(nets.supernet(matrices=False, kernel=5))


@pytest.mark.parametrize("way", WAYS)
def test_masks_compute_what_slices_do(way: str) -> None:
    make, options = WAYS[way]
    program = make()
    space = find_space(program, **options, matrices=False)
    whole = masked(program, space)
    masks = Masks(whole, space)
    args, kwargs = program.example()
    full = program(*args, **kwargs).detach()
    torch.testing.assert_close(whole(*args, **kwargs).detach(), full)
    draw = torch.Generator().manual_seed(1)
    moved = []
    for spec in (space.smallest, *(space.sample(draw) for _ in range(4)), space.largest):
        masks(spec)
        found = whole(*args, **kwargs).detach()
        torch.testing.assert_close(
            found, subnetwork(program, space, spec)(*args, **kwargs).detach(), rtol=1e-5, atol=1e-5
        )
        moved.append(float((found - full).abs().max() / full.abs().max()))
    assert min(moved[:-1]) > 1e-3
    assert moved[-1] < 1e-5


def test_in_training_too_with_the_gradients_of_the_slices() -> None:
    """Batch norms take the statistics of their batch; of every parameter the part that stays has its gradient."""
    program = small_supernet()
    space = find_space(program, expand=[6, 4, 3])
    whole = masked(program, space)
    spec = space.sample(torch.Generator().manual_seed(5))
    Masks(whole, space)(spec)
    x = program.example()[0][0]
    losses, gradients = [], []
    for one in (whole, subnetwork(program, space, spec)):
        loss = set_training(one, True)(x).square().mean()
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad for n, p in one.tensors().items() if p.requires_grad})
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    large, small = gradients
    assert small.keys() < large.keys(), "a block is left out"
    for name, found in large.items():
        assert found is not None
        if name not in small:
            assert not found.any(), name
            continue
        part = small[name]
        assert part is not None
        torch.testing.assert_close(_part(found, part.shape), part, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.norm(), part.norm(), rtol=1e-4, atol=1e-6)  # and the rest has none


def _part(value: Tensor, shape: torch.Size) -> Tensor:
    """The first channels, the middle of the kernel."""
    for dim, size in enumerate(shape):
        value = value.narrow(dim, (value.shape[dim] - size) // 2 if dim > 1 else 0, size)
    return value


def test_without_masks_it_is_the_program_that_it_was() -> None:
    program = small_supernet()
    space = find_space(program, expand=[6, 4, 3])
    whole = masked(program, space)
    names = [n for n in whole.tensors() if n.endswith((MASK, GATE))]
    assert len(names) == len(whole.tensors()) - len(program.tensors()) > 40
    Masks(whole, space)(space.smallest)
    assert str(unmasked(whole)) == str(program)
    assert all(value is program.tensors()[name] for name, value in unmasked(whole).tensors().items())
