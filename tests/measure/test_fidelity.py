"""Fidelity: known distances, and outputs of any shape of tree."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import graphc
from graphc.errors import GraphError
from graphc.measure import fidelity
from tests import models


def test_known_distances() -> None:
    (found,) = fidelity(lambda x: x, lambda x: x + torch.tensor([0.0, 3.0]), torch.tensor([3.0, 4.0]))
    assert found.name == "output"
    assert found.relative_error == pytest.approx(0.6)
    assert found.max_abs == pytest.approx(3.0)
    assert found.cosine == pytest.approx((9 + 28) / (5 * math.hypot(3, 7)))
    assert found.to_dict()["name"] == "output"


def test_zeros() -> None:
    (same,) = fidelity(lambda x: x * 0, lambda x: x * 0, torch.ones(3))
    assert (same.relative_error, same.max_abs, same.cosine) == (0.0, 0.0, 1.0)
    (other,) = fidelity(lambda x: x * 0, lambda x: x, torch.ones(3))
    assert (other.relative_error, other.cosine) == (math.inf, 0.0)


def test_model_outputs_are_compared_by_field() -> None:
    model, inputs = models.tiny_bert()
    program = graphc.capture(model, kwargs=inputs)
    (found,) = fidelity(model, program, inputs)
    assert found.name == "logits"
    assert found.relative_error < 1e-6
    assert found.cosine == pytest.approx(1.0)


def test_nested_outputs_and_constants() -> None:
    def make(offset: float) -> object:
        return lambda x, y: {"a": x + offset, "b": (y, 3, None)}

    found = fidelity(make(0), make(1), (torch.ones(2), torch.ones(3)))  # type: ignore[arg-type] # a callable
    assert [f.max_abs for f in found] == [1.0, 0.0]
    assert found[0].name == "a"


def test_different_outputs_are_refused() -> None:
    def pair(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

    with pytest.raises(GraphError, match="1 tensors in one, 2"):
        fidelity(lambda x: x, pair, torch.ones(2))
    with pytest.raises(GraphError, match=r"\[2\] in the reference and \[1\]"):
        fidelity(lambda x: x, lambda x: x[:1], torch.ones(2))
