"""Attributes of any name, found by comparison."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.emitters import attributes
from graphc.errors import EmitError
from tests import models
from tests.emitters.programs import half


class Settings:
    """A config of the user's own."""

    def __init__(self) -> None:
        self.window, self.parts = 10, [10, 10]


class Oddly(nn.Module):
    """Sizes under names that nobody else uses, one in a list, and numbers that only happen to be equal to sizes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.config = settings
        self.h, self.per_h, self.limit, self.unread = 4, 5, 20, 20
        self.qkv, self.out = nn.Linear(6, 60), nn.Linear(20, 20)
        self.last = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x[:, : self.limit]).view(x.shape[0], -1, 3, self.h, self.per_h).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(2, 3), -1) @ v
        y = self.out(y.transpose(1, 2).reshape(x.shape[0], -1, self.h * self.per_h))
        first, second = y.split(self.config.parts, -1)
        return self.last(first * second) + self.config.window


def captured() -> tuple[Any, graphc.Program]:
    model = models.seeded(Oddly, Settings())
    return model, graphc.capture(model, (torch.randn(3, 7, 6),))


def test_only_what_must_change_changes() -> None:
    model, program = captured()
    back: Any = graphc.to_module(half(program), model)
    assert (back.h, back.per_h, back.config.parts) == (2, 3, [5, 5])
    assert (back.limit, back.unread, back.config.window) == (20, 20, 10)
    assert (model.h, model.config.parts) == (4, [10, 10])


def test_no_value_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, program = captured()
    monkeypatch.setattr(attributes, "ATTEMPTS", 0)
    with pytest.raises(EmitError, match="Oddly cannot express the program"):
        graphc.to_module(half(program), model)


def test_reading_is_watched_only_for_a_while() -> None:
    model, program = captured()
    reads = {name for _, _, name in attributes.Evidence(program, model).reads}
    assert {"h", "per_h", "limit", "parts", "window"} <= reads
    assert "unread" not in reads
    assert "__getattribute__" not in vars(nn.Module)
    assert "__getattribute__" not in vars(Settings)


def test_the_likeliest_combinations_come_first() -> None:
    found = list(attributes._combinations([2, 1, 3]))
    assert found == [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 2), (1, 0, 1), (1, 0, 2)]
