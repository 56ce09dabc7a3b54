"""A small slice of the benchmark of progressive shrinking: random images, and latency as the table says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graphc.passes.elastic import find_space

import graphc
from benchmarks.quality import fashion_mnist_shrinking as shrinking
from benchmarks.quality.fashion import Images
from benchmarks.quality.fashion_mnist_shrinking import NEAR, SHRINK, Cell, Outcome, Setting
from graphc.measure.cost import cost


def test_a_sub_network_of_a_latency_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module, extra in (("accelerate", "train"), ("optuna", "search")):
        pytest.importorskip(module, reason=f"pip install 'graphc[{extra}]'")

    def images(folder: Path, kind: str, count: int | None = None) -> Images:
        draw = torch.Generator().manual_seed(0)
        return torch.randn(count or 8, 1, 14, 14, generator=draw), torch.arange(count or 8) % 10

    asked: list[graphc.Program] = []
    monkeypatch.setattr(shrinking, "half", images)
    monkeypatch.setattr(shrinking, "BATCH", 2)
    monkeypatch.setattr(shrinking, "measured", lambda program, first: (asked.append(program), 0.6)[1])
    monkeypatch.setattr(shrinking, "off", lambda share, setting: 1.0)
    setting = Setting(tmp_path, tmp_path / "table.json", first=1, steps=2, own=1, images=300, held_out=8, trials=24)
    assert find_space(shrinking.elastic(0, setting), **SHRINK).count == 512
    table, program, _ = shrinking.table(setting)
    outcome = shrinking.run(Cell("elastic", 0.6, 0), setting)
    found, own_steps = asked
    first, own = (table.predict(table.take_apart(one, {"batch": 2})).ms for one in (program, found))
    assert (1 - 2 * NEAR) * 0.6 <= own / first <= (1 + NEAR / 2) * 0.6
    assert (outcome.latency, outcome.macs) == (0.6, cost(own_steps).macs / cost(program).macs)
    assert cost(own_steps).macs == cost(found).macs
    assert not torch.equal(*(one.tensors()["head.weight"] for one in asked))


def test_what_is_claimed_can_be_false() -> None:
    known = {cell: Outcome(cell.share, 0.5, 0.5, 0.9) for cell in shrinking.cells(2)}
    assert len(known) == 12
    assert all(shrinking.claims_of(known).values())
    known[Cell("elastic", 0.35, 1)] = Outcome(0.4, 0.5, 0.5, 0.89)
    claims = list(shrinking.claims_of(known).values())
    assert claims == [False, True, True, False]
    assert shrinking.rows_of(known)[4][:3] == ["35%", "elastic", "37.5%"]
