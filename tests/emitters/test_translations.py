"""Ops that torch.onnx has no word for, or writes wrongly, as files that onnxruntime runs."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphc


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


class Windows(nn.Module):
    """Attention with two dims before the heads, as Hiera has it, with and without a mask."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.masked = masked

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        q, k, v = self.qkv(x).view(batch, 3, 5, 3, 2, 3).permute(3, 0, 1, 4, 2, 5).unbind(0)
        mask = (q.mean(-1, keepdim=True) > k.mean(-1).unsqueeze(-2)) | torch.eye(5, dtype=torch.bool)
        return F.scaled_dot_product_attention(q, k, v, mask if self.masked else None)


def test_attention_over_five_dims(tmp_path: Path) -> None:
    for masked in (False, True):
        torch.manual_seed(0)
        program = graphc.capture(Windows(masked), (torch.randn(4, 3, 5, 6),))
        graphc.emit(program, tmp_path / "windows.onnx")  # which compares at two sizes
        assert operators(tmp_path / "windows.onnx").count("MatMul") >= 3


class Alone(nn.Module):
    """Attention without heads, as SAM's vision tower has it, with and without a mask."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 12)
        self.masked = masked

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = q @ k.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, mask if self.masked else None)


def test_attention_over_three_dims(tmp_path: Path) -> None:
    for masked in (False, True):
        torch.manual_seed(0)
        program = graphc.capture(Alone(masked), (torch.randn(4, 5, 6),))
        graphc.emit(program, tmp_path / "alone.onnx")
        assert "Softmax" in operators(tmp_path / "alone.onnx")


class Bounded(nn.Module):
    """Values between bounds that are buffers, as in Gemma's vision tower."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.register_buffer("least", torch.tensor(-0.3))
        self.register_buffer("most", torch.tensor(0.4))
        self.register_buffer("each", torch.linspace(0.1, 0.6, 6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.clamp(layer(torch.clamp(x, self.least, self.most)), self.least, self.most)
        return torch.clamp(x, max=self.each)


def test_bounds_that_are_tensors(tmp_path: Path) -> None:
    program = graphc.capture(Bounded(), (torch.randn(3, 6),))
    graphc.emit(program, tmp_path / "bounded.onnx")
    assert operators(tmp_path / "bounded.onnx").count("Clip") == 4  # two in a row are one
