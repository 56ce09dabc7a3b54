"""What ONNX files compute beforehand, and that a tied tensor is in them once, however small it is."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import graphc


class Tied(nn.Module):
    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(words, 6), nn.Linear(6, words, bias=False)
        self.inner = nn.Linear(6, 6)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.inner(self.words(ids)).relu())


@pytest.mark.parametrize("words", [11, 5000])
def test_a_table_and_the_head_that_shares_it_are_one_tensor(words: int, tmp_path: Path) -> None:
    program = graphc.capture(Tied(words).eval(), (torch.randint(0, 11, (3, 7)),))
    graphc.emit(program, tmp_path / "a.onnx")
    graph = onnx.load(str(tmp_path / "a.onnx")).graph
    assert sum(words in tensor.dims for tensor in graph.initializer) == 1
    assert [node.input[0] for node in graph.node if node.op_type == "Transpose"] == ["words.weight"]
