"""A small slice of the latency benchmarks, on a processor that is made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, latency
from rich.console import Console

import graphc
from benchmarks import latency_table, latency_targets
from graphc.measure.latency_table import LatencyTable
from tests.measure import tables
from tests.passes.test_latency import Deep

CONSOLE = Console(quiet=True)


def deep() -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(Deep().eval(), (torch.randn(1, 3, 7, 9),), dynamic={})


def pruned(count: int, seed: int) -> list[graphc.Program]:
    ratios = [0.2 + 0.15 * i + 0.05 * seed for i in range(count)]
    return [PruneFilters(pruning_ratio=r, round_to=4).run(deep(), latency.Context(deep())) for r in ratios]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> LatencyTable:
    own = LatencyTable({})

    def whole(what: Sequence[graphc.Program], *_: Any, **__: Any) -> list[float]:
        apart = [own.take_apart(program) for program in what]
        own.extend(apart, measure=tables.measure)
        return [1.2 * own.predict(blocks).ms for blocks in apart]

    def write(program: graphc.Program, path: Path) -> graphc.Program:
        return program

    def times(jobs: Any, threads: int, progress: Any) -> Any:
        return tables.measure(jobs)

    changes: Mapping[Any, Mapping[str, Any]] = {
        latency: {"time_blocks": times, "whole_ms": whole, "write_whole": write},
        latency_targets: {"whole_ms": whole, "write_whole": write},
        latency_table: {"time_blocks": times, "whole_ms": whole},
    }
    for module, found in changes.items():
        for name, value in found.items():
            monkeypatch.setattr(module, name, value)
    return own


def test_networks_are_predicted_before_and_after_their_blocks_are_measured(tmp_path: Path) -> None:
    kind = latency_table.Kind("networks", pruned, 3, 3)
    unseen, measured = latency_table.rows_of(kind, tmp_path, 1, CONSOLE)
    assert unseen.interpolated > 0
    assert measured.interpolated == 0
    assert max(measured.errors) < 1e-6
    assert max(unseen.errors) < 20
    assert measured.spearman == pytest.approx(1.0)
    assert [len(row.cells()) for row in (unseen, measured)] == [len(latency_table.COLUMNS)] * 2


def test_targets_are_met_with_more_macs_than_uniform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency_targets.NETWORKS, "deep", latency_targets.Network(deep, (PruneFilters,)))
    row = latency_targets.row_of("deep", 0.6, tmp_path, 1, CONSOLE)
    assert abs(row.off) <= latency_targets.WITHIN
    assert 0 < row.uniform <= row.macs < 1
    assert len(row.cells()) == len(latency_targets.COLUMNS)
