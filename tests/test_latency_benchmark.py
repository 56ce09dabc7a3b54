"""A small slice of the benchmark of latency: one small network in all four states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from graphc.passes import PruneFilters
from torch import nn

import graphc
from benchmarks import latency
from benchmarks.peers.int8_models import Subject
from benchmarks.peers.pruning import CLASSES


class Net(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_a_small_network_in_all_states(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="pip install torch-pruning==1.6.1")
    torch.manual_seed(0)
    net = Net().eval()
    program = graphc.capture(net, (torch.randn(3, 3, 16, 16),))
    feeds = [{"x": torch.randn(1, 3, 16, 16)} for _ in range(3)]
    one = Subject("net", "cnn", program, feeds, feeds, [], feeds[0])
    rows = latency.rows_of(one, net, (PruneFilters(pruning_ratio=0.5, importance="l1"),), tmp_path, rounds=2, repeat=3)
    assert [row.state for row in rows] == ["dense", "pruned", "int8", "pruned + int8"]
    assert all(row.own_ms > 0 and row.peer_ms > 0 for row in rows)
    assert [row.params[0] for row in rows] == pytest.approx([row.params[1] for row in rows])
    assert [row.params[0] < 0.6 for row in rows] == [False, True, False, True]
    assert rows[0].cells()[3] == rows[0].cells()[5] == "100.0%"
    assert [len(row.ratios) for row in rows] == [2] * 4
    slow, fast = replace(rows[0], ratios=(0.9, 1.01, 1.2)), replace(rows[1], ratios=(0.9, 1.004, 1.2))
    assert list(latency.claims([slow, fast]).values()) == [False, True]
