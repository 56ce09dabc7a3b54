"""Latency tables: what is measured, kept and refused, and what sums come out; one real measurement."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphc
from graphc.coupling import slice
from graphc.errors import GraphError
from graphc.measure import isolated
from graphc.measure.cover import sized_at_random
from graphc.measure.isolated import Job, Timing
from graphc.measure.latency_table import LatencyTable
from graphc.measure.placement import placement
from graphc.measure.table_file import open_table, save_table
from graphc.measure.whole import whole_ms, write_whole
from tests import models
from tests.measure import tables
from tests.measure.tables import CHANGE, made_up, measure
from tests.models import image


class Chain(nn.Module):
    """Convolutions that keep their layout, and a layer norm, which does not have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 48, 3, padding=1)
        self.third, self.norm = nn.Conv2d(48, 5, 1), nn.LayerNorm(9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.third(torch.relu(self.second(torch.relu(self.first(x))))))


def chain() -> graphc.Program:
    return graphc.capture(Chain().eval(), (image(),))


def known(table: LatencyTable) -> int:
    return sum(map(len, table.timings.values()))


def test_blocks_are_measured_once_and_their_sum_is_the_prediction() -> None:
    table = LatencyTable({})
    blocks = table.take_apart(chain())
    assert table.extend([blocks, blocks], measure=measure) == known(table)
    assert table.extend([blocks], measure=measure) == 0
    found = table.predict(blocks)
    changes = 2 * CHANGE  # the input becomes blocked, and plain again for the norm
    assert found.ms == pytest.approx(made_up((64,)) + made_up((64, 48)) + made_up((48,)) + made_up(()) + changes)
    assert (found.ops, found.blocks, found.interpolated) == (6, 4, 0)


def test_a_value_that_two_read_is_changed_once() -> None:
    class Twice(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            return self.norm(x).mean((2, 3)) + x.mean((2, 3))

    table = LatencyTable({})
    blocks = table.take_apart(graphc.capture(Twice().eval(), (image(),)))
    table.extend([blocks], measure=measure)
    own = sum(tables.timing(Job(blocks, b, (False,) * len(b.inputs))).ms for b in blocks.blocks)
    assert table.predict(blocks).ms == pytest.approx(own + 2 * CHANGE)


def test_other_sizes_are_interpolated_and_predicted_without_cutting() -> None:
    table, program = LatencyTable({}), chain()
    blocks = table.take_apart(program)
    table.extend([blocks, *sized_at_random(program, None, 16, table.take_apart)], measure=measure)
    first, second = (a for a in blocks.analysis.axes if a.pinned is None and a.size in (64, 48))
    at = {first: 40, second: 24}
    found = table.predict(blocks, at)
    cut = table.take_apart(slice(program, {axis: range(size) for axis, size in at.items()}))
    assert table.predict(cut) == found
    table.extend([cut], measure=measure)
    assert table.predict(cut).interpolated == 0
    assert found.ms == pytest.approx(table.predict(cut).ms, rel=0.03)


def test_no_more_of_a_family_than_asked() -> None:
    table, program = LatencyTable({}), chain()
    table.extend(sized_at_random(program, None, 12, table.take_apart), most=5, measure=measure)
    assert {len(found) for found in table.timings.values()} <= set(range(6))
    assert max(len(found) for found in table.timings.values()) == 5


def test_an_op_that_the_table_has_nothing_of_is_named() -> None:
    table = LatencyTable({})
    with pytest.raises(GraphError, match=r"nothing of an op(.|\n)*conv2d(.|\n)*graphc latency-table"):
        table.predict(table.take_apart(chain()))


def test_programs_measured_whole_scale_predictions() -> None:
    table = LatencyTable({})
    blocks = table.take_apart(chain())
    table.extend([blocks], measure=measure)
    before = table.predict(blocks).ms
    table.calibrate(blocks, 1.25 * before)
    table.calibrate(blocks, 1.5 * before)  # once more, in place of the first
    assert table.predict(blocks).ms == pytest.approx(1.5 * before)
    assert len(table.wholes) == 1


def test_what_was_measured_before_an_interruption_is_kept(tmp_path: Path) -> None:
    class StopError(Exception):
        """As if the user had pressed Ctrl-C."""

    def interrupted(jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Timing]]]:
        lots = measure(jobs, lot=1)
        yield next(lots)
        yield next(lots)
        raise StopError

    path = tmp_path / "table.json"
    table = open_table(path)
    program = graphc.capture(models.Residual().eval(), (image(),))
    with pytest.raises(StopError):
        table.extend([table.take_apart(program)], measure=interrupted, keep=lambda: save_table(table, path))
    again = open_table(path)
    assert known(again) == 2
    assert again.extend([again.take_apart(program)], measure=measure) > 0
    whole = LatencyTable({})
    whole.extend([whole.take_apart(program)], measure=measure)
    assert again.timings == whole.timings


def test_a_table_is_the_same_after_reading(tmp_path: Path) -> None:
    table = open_table()
    blocks = table.take_apart(chain())
    table.extend([blocks], measure=measure)
    table.calibrate(blocks, 3.0)
    path = save_table(table, tmp_path / "table.json")
    assert open_table(path) == table
    assert open_table(path).predict(blocks) == table.predict(blocks)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"machine": {"onnxruntime": "0.1"}}, r"another machine or runtime(.|\n)*onnxruntime: '0.1' there, "),
        ({"machine": {"cpu": "a calculator"}}, r"another machine or runtime(.|\n)*cpu: 'a calculator' there, "),
        ({"threads": 4}, r"threads: 4 there, 1 here"),
        ({"format": "recipe"}, r"no latency table(.|\n)*'recipe'"),
        ({"families": {"x": [{"sizes": [1]}]}}, r"no latency table(.|\n)*layouts"),
    ],
)
def test_tables_of_other_machines_and_other_files_are_refused(tmp_path: Path, change: Any, says: str) -> None:
    path = save_table(open_table(), tmp_path / "table.json")
    content = json.loads(path.read_text())
    content |= {key: {**content[key], **v} if isinstance(v, dict) else v for key, v in change.items()}
    path.write_text(json.dumps(content))
    with pytest.raises(GraphError, match=says):
        open_table(path)


def test_a_real_measurement_sees_the_ops_that_onnxruntime_runs(tmp_path: Path) -> None:
    table, program = open_table(), chain()
    blocks = table.take_apart(program)
    assert table.extend([blocks]) == 4
    path = write_whole(program, tmp_path / "chain.onnx")
    found = table.predict(blocks)
    assert found.ops == sum(placement(path).ops.values())
    assert 0 < found.ms < 100
    measured, again = whole_ms([path, program], {"batch": 1}, warmup=1, repeat=3)
    assert measured > 0
    assert again > 0


class Indexed(nn.Module):
    """Reads the only row by many indices, which are computed."""

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(x[rows.clamp(min=0)].sum(0))


def test_indices_that_a_block_reads_are_valid() -> None:
    rows = torch.zeros(23, dtype=torch.int64)
    program = graphc.capture(Indexed().eval(), (torch.randn(1, 7), rows), dynamic={})
    table = open_table()
    blocks = table.take_apart(program)
    assert table.extend([blocks]) == len(blocks.blocks)
    assert 0 < table.predict(blocks).ms < 100


def test_quantised_programs_are_refused() -> None:
    program = models.quantised(models.residual())
    with pytest.raises(GraphError, match=r"quantised programs cannot be taken apart(.|\n)*before it is quantised"):
        LatencyTable({}).take_apart(program)


def test_blocks_share_a_file_while_their_weights_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = LatencyTable({}).take_apart(chain())
    jobs = [Job(blocks, block, (False,) * len(block.inputs)) for block in blocks.blocks]
    assert [blocks.bytes(job.block) for job in jobs[:2]] == [4 * 64 * (3 * 9 + 1), 4 * 48 * (64 * 9 + 1)]
    assert [len(lot) for lot in isolated._lots(jobs)] == [4]
    monkeypatch.setattr(isolated, "TOGETHER", 3)
    assert [len(lot) for lot in isolated._lots(jobs)] == [3, 1]
    monkeypatch.setattr(isolated, "MOST_BYTES", 100_000)
    assert [len(lot) for lot in isolated._lots(jobs)] == [1, 1, 2]
