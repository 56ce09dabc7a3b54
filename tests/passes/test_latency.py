"""Latency as a budget, on a processor that is made up: sizes at its steps, measured, and corrected if off."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, latency
from graphc.passes.latency import between, paying
from graphc.passes.ranking import Allowed, rank
from torch import Tensor, nn

import graphc
from graphc.coupling import find_axes
from graphc.errors import GraphError, RecipeError
from graphc.measure.latency_table import LatencyTable
from graphc.measure.table_file import open_table
from tests.measure import tables
from tests.measure.tables import STEP
from tests.models import image


class Deep(nn.Module):
    """Convolutions in a row."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 64, 128, 96, 160, 128, 192, 5)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Machine:
    """Stands for what is measured: blocks as the table has them, wholes slower by a factor."""

    def __init__(self) -> None:
        self.table = LatencyTable({})
        self.slower, self.measured = 1.0, 0

    def write(self, program: graphc.Program, path: Path) -> graphc.Program:
        return program

    def whole(self, what: Sequence[graphc.Program], dims: Mapping[str, int], threads: int) -> list[float]:
        self.measured += 1
        apart = [self.table.take_apart(program, dims) for program in what]
        self.table.extend(apart, measure=tables.measure)
        times = [self.table.predict(blocks).ms for blocks in apart]
        return [times[0], *(ms * self.slower for ms in times[1:])]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(latency, "time_blocks", lambda jobs, threads, progress: tables.measure(jobs))
    monkeypatch.setattr(latency, "write_whole", made.write)
    monkeypatch.setattr(latency, "whole_ms", made.whole)
    return made


@pytest.fixture(scope="module")
def program() -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(Deep().eval(), (image(),))


def compiled(program: graphc.Program, value: Any, **options: Any) -> graphc.Compilation:
    return graphc.compile(program, passes=[PruneFilters(constraints={"latency_ms": value}, **options)], bench=None)


def facts(compilation: graphc.Compilation) -> Any:
    return compilation.report["passes"][0]["facts"]


@pytest.mark.parametrize("slower", [1.0, 1.3, 0.8])
def test_the_target_is_met_however_wrong_the_table_is(machine: Machine, program: graphc.Program, slower: float) -> None:
    machine.slower = slower
    found = facts(compiled(program, "60%"))["latency_target"]
    assert found["measured_ms"] == pytest.approx(0.6 * found["before_ms"], rel=0.05)
    assert found["asked_ms"] == pytest.approx(0.6 * found["before_ms"])
    assert len(found["checks"]) == (1 if slower == 1.0 else len(found["checks"]))
    assert machine.measured == 1 + len(found["checks"])


def test_sizes_are_where_the_steps_are(machine: Machine, program: graphc.Program) -> None:
    compilation = compiled(program, "55%")
    sizes = [axis.size for axis in find_axes(compilation.program) if axis.pinned is None]
    assert {size % STEP for size in sizes} == {0}
    assert sizes != [axis.size for axis in find_axes(program) if axis.pinned is None]


def test_a_number_and_a_second_limit(machine: Machine, program: graphc.Program) -> None:
    whole = facts(compiled(program, "60%"))["latency_target"]["before_ms"]
    options = {"constraints": {"latency_ms": 0.9 * whole, "params": "30%"}}
    found = facts(graphc.compile(program, passes=[PruneFilters(**options)], bench=None))
    assert found["constraints"]["params"]["reached"] <= found["constraints"]["params"]["asked"]
    assert found["latency_target"]["measured_ms"] < 0.85 * whole  # the parameters are what limits it
    assert len(found["latency_target"]["checks"]) == 1
    assert [re.match(r"\w+", line).group() for line in found["says"]] == ["params", "latency_ms"]  # type: ignore[union-attr] # each begins so


def test_steps_share_the_way(machine: Machine, program: graphc.Program) -> None:
    found = facts(compiled(program, "60%", iterative_steps=3))["latency_target"]
    assert found["measured_ms"] == pytest.approx(0.6 * found["before_ms"], rel=0.05)


def test_the_table_is_kept_and_used_again(
    machine: Machine, program: graphc.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    compiled(program, "60%", latency_table=str(path))
    assert open_table(path).timings

    def refuse(jobs: Any, threads: int, progress: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(latency, "time_blocks", refuse)
    compiled(program, "70%", latency_table=str(path))


def test_what_cannot_be_met_is_refused(machine: Machine, program: graphc.Program) -> None:
    with pytest.raises(
        GraphError, match=r"cannot meet the constraints(.|\n)*the least that it can reach is .* latency_ms"
    ):
        compiled(program, "1%")
    with pytest.raises(RecipeError, match="latency_ms: 150% cannot be met"):
        compiled(program, "150%")
    with pytest.raises(RecipeError, match=r"latency_ms: 1000000\.0 cannot be met"):
        compiled(program, 1000000)


def test_a_result_that_stays_too_slow_is_an_error(machine: Machine, program: graphc.Program) -> None:
    drifting = iter((1.0, 1.5, 3.0, 6.0, 12.0, 24.0))
    plain = machine.whole

    def worse(what: Sequence[graphc.Program], dims: Mapping[str, int], threads: int) -> list[float]:
        machine.slower = next(drifting)
        return plain(what, dims, threads)

    latency_of = pytest.MonkeyPatch()
    latency_of.setattr(latency, "whole_ms", worse)
    try:
        with pytest.raises(GraphError, match=r"latency_ms was not met|cannot meet the constraints"):
            compiled(program, "60%")
    finally:
        latency_of.undo()


def test_corrections_that_lead_back_and_forth_have_a_middle() -> None:
    assert between([(1.0, 12.0), (1.2, 9.0)], 10.0) == pytest.approx(1.2**0.5)
    assert between([(1.0, 12.0), (1.21, 9.0), (1.1, 11.0)], 10.0) == pytest.approx((1.21 * 1.1) ** 0.5)
    assert between([(1.0, 12.0), (1.2, 11.0)], 10.0) == pytest.approx(1.2)


def test_sizes_that_save_nothing_are_left_out() -> None:
    axis = next(a for a in find_axes(graphc.capture(Deep().eval(), (image(),))) if a.size == 128)
    found = paying(axis, Allowed(), lambda sizes: tables.made_up(sizes.values()))  # type: ignore[arg-type] # a view
    assert found == tuple(range(STEP, 129, STEP))


def test_what_fits_is_filled_up(program: graphc.Program) -> None:
    axes = [axis for axis in find_axes(program) if axis.pinned is None]
    scores = {axis: torch.arange(axis.size, dtype=torch.float) for axis in axes}
    ranking = rank(scores, dict.fromkeys(axes, "all"), {axis: Allowed(STEP) for axis in axes})
    most = 0.5 * sum(axis.size for axis in axes)

    def fits(sizes: Mapping[Any, int]) -> bool:
        return sum(sizes.values()) <= most

    plain, filled = ranking.by_budget(fits), ranking.by_budget(fits, fill=True)
    assert plain is not None
    assert filled is not None
    assert sum(plain.values()) <= sum(filled.values()) <= most
    assert most - sum(filled.values()) < STEP
    assert all(filled[axis] >= plain[axis] for axis in axes)
