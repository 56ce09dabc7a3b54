"""Regions without an effect become part of the graph."""

from __future__ import annotations

import torch
from torch import nn

import graphc
from graphc.coupling import analyze


class Attention(nn.Module):
    """Linear attention that switches autocast off, as trained models do where halves would overflow."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)
        self.register_buffer("scale", torch.rand(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        with torch.autocast("cpu", enabled=self.enabled):
            with torch.autocast("cpu", enabled=False):
                inner = hidden * self.scale
            low, high = (inner @ inner.mT @ hidden).split(4, -1)
        result: torch.Tensor = self.second(torch.cat([high, low], -1).float())
        return result


def test_autocast_that_is_off_is_nothing() -> None:
    model, x = Attention(enabled=False), torch.randn(4, 3, 6)
    program = graphc.capture(model, (x,))
    assert "autocast" not in str(program)
    assert not analyze(program).unknown
    torch.testing.assert_close(program(x), model(x))
    axes = {axis.name: axis for axis in graphc.find_axes(program) if axis.pinned is None}
    kept = {name: [0] for name, axis in axes.items() if not axis.mixed}
    assert kept
    torch.testing.assert_close(graphc.slice(program, kept)(x), graphc.mask(program, kept)(x))


def test_autocast_that_is_on_stays() -> None:
    model, x = Attention(enabled=True), torch.randn(4, 3, 6)
    program = graphc.capture(model, (x,))
    assert "wrap_with_autocast" in str(program)
    torch.testing.assert_close(program(x), model(x))
