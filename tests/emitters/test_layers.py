"""Layers that went: out of lists, out of modules that go through their children, whole stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphc.passes import PruneLayers
from torch import Tensor, nn

import graphc
from graphc.emitters.layers import choices, gone_modules, renamed
from graphc.errors import EmitError
from tests import models


class Layer(nn.Module):
    """A residual layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Children(nn.Module):
    """A stage that goes through its children, whatever their names are."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "second", "third"):
            self.add_module(name, Layer())

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class Net(nn.Module):
    """A stage of one of several kinds, and a part that forward never runs."""

    def __init__(self, stage: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.inside, self.stage, self.head = nn.Linear(6, 6), stage(), nn.Linear(6, 2)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.inside(x)))


def numbered() -> nn.Module:
    return nn.Sequential(Layer(), Layer(), Layer())


def named() -> nn.Module:
    return nn.Sequential(OrderedDict((name, Layer()) for name in ("block-0", "block-1", "block-2")))


def without(stage: Callable[[], nn.Module], *layers: int) -> tuple[Any, graphc.Program]:
    model = models.seeded(Net, stage)
    program = graphc.capture(model, (models.vectors(),))
    return model, graphc.compile(program, passes=[PruneLayers(layers=layers)]).program


@pytest.mark.parametrize(
    ("stage", "layers", "left"),
    [
        (numbered, (0, 1), ["0"]),
        (named, (1,), ["block-0", "block-2"]),
        (Children, (0, 2), ["second"]),
        (numbered, (0, 1, 2), []),
    ],
)
def test_layers_are_taken_out(stage: Callable[[], nn.Module], layers: tuple[int, ...], left: list[str]) -> None:
    model, program = without(stage, *layers)
    back: Any = graphc.to_module(program, model)
    assert [name for name, child in back.stage.named_children() if child is not None] == left
    assert torch.equal(back.unused.weight, model.unused.weight)
    assert len(list(model.stage.children())) == 3


def test_names_after_layers_went() -> None:
    model, program = without(numbered, 1)
    assert gone_modules(program, model) == ["stage.1"]
    kept = choices(model, ["stage.1"])
    assert kept == [{"stage": {"0": "0", "1": None, "2": "1"}}, {}]
    names = ["stage.0.up.weight", "stage.1.up.weight", "stage.2.up.weight", "stage.2", "head.weight"]
    assert [renamed(name, kept[0]) for name in names] == [
        "stage.0.up.weight",
        None,
        "stage.1.up.weight",
        "stage.1",
        "head.weight",
    ]


class Fixed(nn.Module):
    """Two layers that forward calls by name."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Layer(), Layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


def test_a_layer_that_forward_calls_by_name_is_named_in_the_refusal() -> None:
    model, program = without(Fixed, 0)
    with pytest.raises(EmitError, match="Net cannot express the program") as caught:
        graphc.to_module(program, model)
    assert "the program has none of stage.one, which the class runs" in caught.value.why
    assert "return self.two(self.one(x))" in caught.value.where
