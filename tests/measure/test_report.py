"""The report: what is in it, and that it is written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import graphc
from graphc.measure import Step, cost, report, write_report
from tests import models


def test_a_report_holds_passes_cost_latency_and_artifacts(tmp_path: Path) -> None:
    before = models.residual()
    after = graphc.slice(before, {"conv1.out": range(8)}, "conv1.out 24 -> 8")
    found = report(
        before,
        after,
        recipe={"seed": 0},
        steps=[Step("prune-filters", 1.23456, before, after, {"score": 2})],
        artifacts=[{"name": "net.onnx", "bytes": 5}],
        p50_ms=(2.0, 1.5),
    )
    (step,) = found["passes"]
    assert (step["name"], step["seconds"], step["facts"]) == ("prune-filters", 1.235, {"score": 2})
    assert step["macs"] == found["after"]["macs"] == cost(after).macs < found["before"]["macs"]
    assert step["changes"][0] == "conv1: weight 24x12x3x3 => 8x12x3x3, bias 24 => 8"
    assert (found["before"]["p50_ms"], found["after"]["p50_ms"]) == (2.0, 1.5)
    assert found["fidelity"][0]["relative_error"] > 0
    assert found["artifacts"] == [{"name": "net.onnx", "bytes": 5}]
    assert found["graphc"] == found["environment"]["versions"]["graphc"]
    path = write_report(found, tmp_path / "out" / "report.json")
    assert json.loads(path.read_text(encoding="utf-8")) == found
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize(("content", "error"), [({"x": object()}, TypeError), ({"x": float("nan")}, ValueError)])
def test_what_is_not_json_leaves_the_old_report(tmp_path: Path, content: dict[str, object], error: type) -> None:
    path = write_report({"old": 1}, tmp_path / "report.json")
    with pytest.raises(error):
        write_report(content, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}


def test_pages_appear_with_their_report(tmp_path: Path) -> None:
    path = write_report({"old": 1}, tmp_path / "report.json", {"report.html": "old"})
    with pytest.raises(TypeError):
        write_report({"new": object()}, path, {"report.html": "new"})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "old"
    write_report({"new": 1}, path, {"report.html": "new"})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_failed_write_leaves_the_old_report_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report({"old": 1}, tmp_path / "report.json")

    def fail(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report({"new": 1}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
