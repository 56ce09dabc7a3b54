"""Real architectures: half of every exact axis, sliced and masked, compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import graphc
from tests import models
from tests.coupling.proof import exact, half, prove
from tests.models import randomise

TRANSFORMERS: list[Callable[[str], tuple[nn.Module, dict[str, torch.Tensor]]]] = [
    models.tiny_bert,
    models.tiny_gpt2,
    models.tiny_llama,
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("build", TRANSFORMERS, ids=lambda build: build.__name__)
def test_transformers(build: Any, attention: str) -> None:
    model, inputs = build(attention)
    dynamic = {name: {0: "batch", 1: "seq"} for name in inputs}
    program = graphc.capture(model, kwargs=inputs, dynamic=dynamic)
    axes = exact(program)
    assert {"heads", "head_dim"} & {role for axis in axes for role in axis.roles}
    sliced = prove(program, half(axes), batch=2, seq=6)
    assert graphc.find_axes(sliced)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_vision(name: str) -> None:
    torch.manual_seed(0)
    model = randomise(torchvision.models.get_model(name).eval())
    program = graphc.capture(model, (torch.randn(3, 3, 64, 64),))
    axes = exact(program)
    assert len(axes) > 8
    prove(program, half(axes), batch=2)
