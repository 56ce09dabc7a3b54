"""Ops of libraries in ONNX: the emitter itself runs what it wrote and compares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphc


class Experts(nn.Module):
    """Rows of a batch, sorted by expert, each through its expert; the second has none."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 5, 7)), nn.Parameter(torch.randn(3, 7, 6))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.stack([torch.tensor(2), torch.tensor(2), torch.tensor(x.shape[0])]).to(torch.int32)
        hidden = torch.ops.transformers.grouped_mm_fallback(x, self.up, offs=ends).relu()
        result: Tensor = torch.ops.transformers.grouped_mm_fallback(hidden, self.down, offs=ends)
        return result


class Rotated(nn.Module):
    """Pairs turned as complex numbers, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = nn.Parameter(torch.randn(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (5, 2)))
        turns = torch.view_as_complex(self.turns).unsqueeze(0).unsqueeze(-2)
        return torch.view_as_real(pairs * turns).flatten(-2)


def test_complex_numbers_run_in_onnxruntime(tmp_path: Path) -> None:
    graphc.emit(graphc.capture(Rotated(), (torch.randn(4, 3, 10),)), tmp_path / "rotated.onnx")


def test_products_by_group_run_in_onnxruntime_after_a_cut(tmp_path: Path) -> None:
    pytest.importorskip("transformers.integrations.moe", reason="pip install 'graphc[transformers]'")
    torch.manual_seed(0)
    program = graphc.capture(Experts(), (torch.randn(4, 5),), dynamic={})
    (inner,) = (axis for axis in graphc.find_axes(program) if axis.pinned is None)
    assert (inner.size, inner.members) == (7, [("up", 2), ("down", 1)])
    smaller = graphc.slice(program, {inner: [0, 2, 3]})
    masked, x = graphc.mask(program, {inner: [0, 2, 3]}), torch.randn(4, 5)
    assert torch.allclose(smaller(x), masked(x), atol=1e-6)
    graphc.emit(smaller, tmp_path / "experts.onnx")
