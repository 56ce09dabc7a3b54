"""Benchmarks: who takes part, at which sizes, and what is told."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import graphc
from graphc import view_bench
from graphc.errors import GraphError
from graphc.measure import roofline
from graphc.measure.latency import Measurement, summarize
from graphc.measure.runnable import Runnable
from graphc.pipeline import alone, bench_result
from graphc.pipeline.alone import Alone
from graphc.pipeline.bench import Wishes, bench, warnings_of
from graphc.pipeline.bench_result import BenchResult
from graphc.pipeline.entrants import find_entrants, settle_sizes
from graphc.pipeline.model import Model
from graphc.pipeline.recipe import Recipe
from tests import models

QUICK: dict[str, Any] = {"warmup": 1, "repeat": 4, "memory": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    program = models.residual()
    for name in ("net.onnx", "net.pt2", "net"):
        graphc.emit(program, folder / name)
    (folder / "net.yaml").write_text("")
    return folder


def named(folder: Path, *names: str) -> list[Model]:
    recipe = Recipe.model_validate(
        {
            "model": {"target": "tests.models:Residual"},
            "example_inputs": {"x": {"shape": [4, 3, 7, 9]}},
            "dynamic": {"x": {0: "n"}},
        }
    )
    return [Model(folder / name, recipe if name.endswith(".yaml") else None) for name in names]


@pytest.fixture(scope="module")
def found(folder: Path) -> BenchResult:
    wishes = Wishes(sizes={"batch": (1, 3)}, threads=(1, 2), **QUICK)
    return bench(named(folder, "net.onnx", "net.pt2", "net", "net.yaml"), wishes)


def test_all_kinds_of_models_run_at_all_sizes_and_threads(found: BenchResult) -> None:
    assert [(row.name, row.measurement.backend) for row in found.rows[:4]] == [
        ("net.onnx", "onnxruntime"),
        ("net.pt2", "eager"),
        ("net", "eager"),
        ("net.yaml", "eager"),
    ]
    points = [(row.measurement.batch, row.measurement.threads) for row in found.rows[::4]]
    assert points == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert all(row.measurement.batch == row.setting.sizes["batch"] for row in found.rows)
    for _, rows in found.settings():
        assert (rows[0].ratio.value, rows[0].ratio.low, rows[0].ratio.high) == (1, 1, 1)
        assert all(row.ratio.low <= row.ratio.value <= row.ratio.high for row in rows)
    assert [row.file_bytes is None for row in found.rows[:4]] == [False, False, False, True]


def test_the_json_is_what_it_is_said_to_be(found: BenchResult) -> None:
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["format"] == "graphc bench 1"
    about = str(bench_result.__doc__)
    for key in (*told, *told["results"][0]):
        assert key in about, key
    first = told["results"][0]
    assert (first["artifact"], first["sizes"], len(first["samples_ms"])) == ("net.onnx", {"batch": 1}, 4)
    assert first["load_ms"] is None


def test_csv_and_markdown_have_a_line_for_each_result(found: BenchResult) -> None:
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [line["artifact"] for line in lines] == [row.name for row in found.rows]
    assert lines[-1]["size_batch"] == "3"
    assert float(lines[1]["ratio_low"]) <= float(lines[1]["ratio"]) <= float(lines[1]["ratio_high"])
    text = found.to_markdown()
    assert text.count("| net.pt2 |") == 4
    assert "### batch 3, 2 threads, cpu" in text


def test_backends_that_were_asked_for(folder: Path) -> None:
    entrants, skipped = find_entrants(named(folder, "net.onnx", "net.pt2"), ("onnxruntime", "eager"), folder)
    assert [(e.name, e.backend) for e in entrants] == [
        ("net.onnx", "onnxruntime"),
        ("net.pt2", "onnxruntime"),
        ("net.pt2", "eager"),
    ]
    assert skipped == ["net.onnx does not run with eager: an .onnx file runs on onnxruntime"]
    assert isinstance(entrants[1].what, Path)
    assert entrants[1].what.exists()
    with pytest.raises(GraphError, match="nothing to benchmark"):
        find_entrants(named(folder, "net.onnx"), ("eager",), folder)


def test_sizes_are_the_same_for_all(tmp_path: Path) -> None:
    program = models.transformer()
    for name in ("text.onnx", "text.pt2"):
        graphc.emit(program, tmp_path / name)
    file, pt2 = find_entrants(named(tmp_path, "text.onnx", "text.pt2"), (), tmp_path)[0]
    seq = program.contract.dims()["seq"]
    assert settle_sizes([file, pt2], {}) == {"batch": 1, "seq": seq}
    assert settle_sizes([file], {"seq": 5, "batch": 2}) == {"batch": 2, "seq": 5}
    with pytest.raises(GraphError, match=r"size of the dim 'seq' of text.onnx is not known"):
        settle_sizes([file], {})
    with pytest.raises(GraphError, match=r"text.onnx has no dynamic dim 'sek'"):
        settle_sizes([file], {"sek": 5})


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"backends": ("eagre",)}, "no backend 'eagre'"),
        ({"devices": ("tpu",)}, "neither 'cpu' nor 'cuda'"),
        ({"threads": (0,)}, "at least 1"),
        ({"repeat": 0}, "at least 1"),
    ],
)
def test_wishes_that_cannot_be_are_refused_before_any_work(folder: Path, wishes: Any, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        bench(named(folder, "net.pt2"), Wishes(**wishes))
    with pytest.raises(GraphError, match="does not exist"):
        Wishes().check(named(folder, "no.pt2"))


def measured(*samples: float, cpu: float, batch: int = 1) -> Measurement:
    runnable = Runnable(lambda: None, "x", "eager", batch)
    return replace(summarize(samples, "x", runnable, "cpu", 1, 0), cpu_ms=cpu, steady=batch == 1)


def test_warnings_are_of_noise_and_of_what_is_not_alike() -> None:
    quiet = measured(*[10.0] * 9, 11.0, cpu=9.9)
    assert warnings_of(quiet, quiet, Alone()) == ()
    loud = measured(*[10.0, 20.0] * 5, cpu=2.0, batch=4)
    said = " ".join(warnings_of(loud, quiet, Alone(error="no room")))
    for words in ("noisy", "spread over 67%", "13% of the time", "not steady", "its batch is 4", "no room"):
        assert words in said, words


def test_loading_and_memory_are_those_of_a_process_of_its_own(folder: Path) -> None:
    [entrant], _ = find_entrants(named(folder, "net.onnx"), (), folder)
    apart = alone.run_alone(entrant, {"batch": 2}, "cpu", 1)
    assert apart.error == ""
    assert apart.load_ms is not None
    assert apart.first_ms is not None
    assert apart.load_ms > 0 < apart.first_ms
    assert apart.memory_bytes is not None
    assert 0 < apart.memory_bytes < 10**9
    assert apart.device_bytes is None


def test_a_process_that_fails_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone.sys, "executable", "false")
    [entrant], _ = find_entrants(named(folder, "net.onnx"), (), folder)
    assert "ended with code 1" in alone.run_alone(entrant, {"batch": 2}, "cpu", 1).error


def test_profiles_lie_beside_what_the_machine_can_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.01)
    monkeypatch.setattr(roofline, "SIDE", {"cpu": 64})
    monkeypatch.setattr(roofline, "STREAMS", {"cpu": (2**12, 2**16)})
    found = bench(named(folder, "net.onnx", "net.pt2"), Wishes(profile=True, **QUICK))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [p["artifact"] for p in told["profiles"]] == ["net.onnx", "net.pt2"]
    assert [p["roofline"] for p in told["profiles"]] == [0, 0]
    assert len(told["rooflines"]) == 1
    about = str(bench_result.__doc__)
    for key in (*told["profiles"][0], *told["profiles"][0]["ops"][0], *told["rooflines"][0]):
        assert key in about, key
    bounds = {op["bound"] for profile in told["profiles"] for op in profile["ops"]}
    assert bounds <= {"compute", "memory", "nothing"}
    assert bounds & {"compute", "memory"}
    assert "### Ops of net.onnx (onnxruntime), batch 1, 1 thread, cpu" in found.to_markdown()
    shown = io.StringIO()
    view_bench.benched(Console(file=shown, width=150), found)
    assert "bound by" in shown.getvalue()
    assert "conv1" in shown.getvalue()
