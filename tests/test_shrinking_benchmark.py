"""A small slice of the benchmark of progressive shrinking: random images, multiply-accumulates for latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from graphc.passes.elastic import Space, Spec, find_space, subnetwork

import graphc
from benchmarks.quality import fashion_mnist_shrinking as shrinking
from benchmarks.quality.fashion import Images
from benchmarks.quality.fashion_mnist_shrinking import NEAR, SHRINK, Cell, Outcome, Setting
from graphc.measure.cost import cost


class ByMacs:
    """Takes multiply-accumulates for latency."""

    def __init__(self, program: graphc.Program, space: Space) -> None:
        self.program, self.space = program, space

    def __call__(self, spec: Spec) -> float:
        return self.measured([subnetwork(self.program, self.space, spec)])[0]

    def measured(self, programs: Sequence[graphc.Program]) -> list[float]:
        return [cost(one).macs / cost(self.program).macs for one in programs]


def test_a_sub_network_of_half_the_latency_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="training needs the extra `train`")

    def images(folder: Path, kind: str, count: int | None = None) -> Images:
        draw = torch.Generator().manual_seed(0)
        return torch.randn(count or 8, 1, 14, 14, generator=draw), torch.arange(count or 8) % 10

    monkeypatch.setattr(shrinking, "images", images)
    setting = Setting(Path(), Path(), first=1, steps=2, own=1, images=256, held_out=8, population=2)
    program = shrinking.elastic(0, setting)
    space = find_space(program, **SHRINK)
    assert space.count == 1120
    clock = ByMacs(program, space)
    found = shrinking.search(program, clock, 0.5, 0, setting)  # type: ignore[arg-type] # it is used alike
    assert clock.measured([found])[0] == pytest.approx(0.5, rel=NEAR)


def test_what_is_claimed_can_be_false() -> None:
    known = {cell: Outcome(cell.share, 0.5, 0.5, 0.9) for cell in shrinking.cells(2)}
    assert len(known) == 12
    assert all(shrinking.claims_of(known).values())
    known[Cell("elastic", 0.35, 1)] = Outcome(0.4, 0.5, 0.5, 0.89)
    claims = list(shrinking.claims_of(known).values())
    assert claims == [False, True, True, False]
    assert shrinking.rows_of(known)[4][:3] == ["35%", "elastic", "37.5%"]
