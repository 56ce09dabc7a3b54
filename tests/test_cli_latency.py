"""The command ``latency-table``, on a processor that is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphc.pipeline import tabulate
from tests.commands import command
from tests.measure import tables

RECIPE = {"model": {"target": "tests.models:Residual"}, "example_inputs": {"x": {"shape": [4, 3, 7, 9]}}}


@pytest.fixture
def graphc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(tabulate, "time_blocks", lambda jobs, threads, progress: tables.measure(jobs))
    monkeypatch.setattr(tabulate, "whole_ms", lambda programs, dims, threads: [2.0 for _ in programs])
    return command(monkeypatch, capsys, "latency-table")


def test_a_table_is_made_and_extended(graphc: Any, tmp_path: Path) -> None:
    recipe, table = tmp_path / "recipe.yaml", tmp_path / "table.json"
    recipe.write_text(yaml.safe_dump(RECIPE))
    words = (str(recipe), "-o", str(table), "--samples", "2")
    code, out, _ = graphc(*words, "--json")
    assert code == 0
    found = json.loads(out)
    row = found["programs"][str(recipe)]
    assert row["measured_ms"] == 2.0
    assert row["predicted_ms"] == pytest.approx(2.0)  # scaled by itself
    assert row["interpolated"] == 0
    assert found["measured"] == found["known"] > row["blocks"]
    code, out, _ = graphc(*words)
    assert code == 0
    assert "0 blocks measured" in out


def test_what_has_no_graph_and_tables_of_other_threads_are_refused(graphc: Any, tmp_path: Path) -> None:
    code, _, err = graphc(str(tmp_path / "model.onnx"))
    assert code == 2
    assert "no torch graph" in err
    recipe, table = tmp_path / "recipe.yaml", tmp_path / "table.json"
    recipe.write_text(yaml.safe_dump(RECIPE))
    assert graphc(str(recipe), "-o", str(table), "--samples", "0", "--no-whole")[0] == 0
    code, _, err = graphc(str(recipe), "-o", str(table), "--threads", "2")
    assert code == 2
    assert "threads: 1 there, 2 here" in err
