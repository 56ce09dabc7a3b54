from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphc import cli
from tests.commands import command

RECIPE: dict[str, Any] = {
    "model": {"target": "tests.models:Residual"},
    "example_inputs": {"x": {"shape": [4, 3, 7, 9]}},
    "passes": [{"type": "prune-filters", "pruning_ratio": 0.5}],
    "emit": ["small.onnx"],
    "bench": {"warmup": 1, "repeat": 3},
}


def recipe(folder: Path, **change: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **change}))
    return str(path)


@pytest.fixture
def graphc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return command(monkeypatch, capsys)


def test_compile_prints_what_changed(graphc: Any, tmp_path: Path) -> None:
    code, out, _ = graphc("compile", recipe(tmp_path), "-o", str(tmp_path / "out"))
    assert code == 0
    assert "conv1: weight 24x12x3x3 => 12x6x3x3" in out
    assert "M params" in out
    assert "p50" in out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["artifacts"][0]["name"] == "small.onnx"


def test_compile_json_is_the_report(graphc: Any, tmp_path: Path) -> None:
    code, out, _ = graphc("compile", recipe(tmp_path), "-o", str(tmp_path / "out"), "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "out" / "report.json").read_text())


BESIDE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

def batches():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, 6, generator=generator)
    return [(part, part[:, :3].argmax(1)) for part in x]
"""


def test_training_by_a_module_beside_the_recipe_and_resume(
    graphc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="training needs the extra `train`")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_cli.py").write_text(BESIDE)
    change: dict[str, Any] = {
        "model": {"target": "beside_cli:net"},
        "example_inputs": {"input": {"shape": [4, 6]}},
        "data": {name: {"target": "beside_cli:batches"} for name in ("train", "eval")},
        "metric": "accuracy",
        "passes": [{"type": "finetune", "epochs": 5, "learning_rate": 0.02}],
        "emit": [],
        "bench": None,
    }
    words = "compile", recipe(tmp_path, **change), "-o", str(tmp_path / "out")
    code, out, _ = graphc(*words)
    assert code == 0
    assert "20 steps" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["after"]["metric"] > report["before"]["metric"]
    assert f"{report['after']['metric']:.4f}" in out
    (tmp_path / "out" / "report.json").unlink()
    code, _, _ = graphc(*words, "--resume")
    assert code == 0
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert again["after"] == report["after"]
    change["passes"][0]["learning_rate"] = 0.03
    recipe(tmp_path, **change)
    code, _, err = graphc(*words, "--resume")
    assert code == 2
    assert "the checkpoint is of another training" in err


def test_explain(graphc: Any, tmp_path: Path) -> None:
    code, out, _ = graphc("explain", recipe(tmp_path))
    assert code == 0
    assert "conv1.out  24  filters" in out
    assert "coupled by aten.add.Tensor" in out
    assert "dim 1 of output output" in out
    code, out, _ = graphc("explain", recipe(tmp_path), "--json")
    assert {"axes", "layers", "pins", "without_rule", "warnings"} == set(json.loads(out))


def test_explain_draws(graphc: Any, tmp_path: Path) -> None:
    path = recipe(tmp_path)
    code, _, err = graphc("explain", path, "--svg", str(tmp_path / "graph.svg"))
    assert code == 0
    assert "drawn in" in err
    code, out, _ = graphc("explain", path, "--svg", str(tmp_path / "axis.svg"), "--axis", "conv1.out", "--json")
    assert code == 0
    assert "axes" in json.loads(out)
    assert "Coupling of conv1.out" in (tmp_path / "axis.svg").read_text(encoding="utf-8")
    assert "Graph of the program" in (tmp_path / "graph.svg").read_text(encoding="utf-8")
    for words in (["--axis", "conv1.out"], ["--svg", "x.png"], ["--svg", str(tmp_path / "x.svg"), "--axis", "nothing"]):
        assert graphc("explain", path, *words)[0] == 2
    assert not (tmp_path / "x.svg").exists()


def test_explain_names_ops_without_a_rule(graphc: Any, tmp_path: Path) -> None:
    inputs = {"x": {"shape": [4, 6]}}
    code, out, _ = graphc("explain", recipe(tmp_path, model={"target": "tests.models:Ruleless"}, example_inputs=inputs))
    assert code == 0
    assert "no rule for aten." in out


def test_compare_shows_where_the_error_comes_from(graphc: Any, tmp_path: Path) -> None:
    kept = {"filters": {"conv1.out": list(range(23))}}
    passes = [{"type": "prune-filters", **kept}]
    graphc(
        "compile", recipe(tmp_path, passes=passes, emit=["small.pt2", "small.onnx"], bench=None), "-o", str(tmp_path)
    )
    words = "compare", str(tmp_path / "recipe.yaml"), str(tmp_path / "small.pt2")
    code, out, _ = graphc(*words)
    assert code == 0
    lines = out.splitlines()
    assert "small.pt2 against recipe.yaml, on the example inputs of recipe.yaml" in lines[0]
    rows = [line.split() for line in lines]
    assert ["conv2d", "to", "3", "values", "exact", "0"] in rows
    (worst,) = [row for row in rows if row[:1] == ["*"]]
    assert worst[1:4] == ["conv2d_2", "conv2", "aten.conv2d"]
    assert next(row for row in rows if row[:2] == ["output", "output"])
    assert "values of small.pt2 only: 3 (conv2d_1, batch_norm_1, relu_default_1)" in out
    assert "left out: 1 that only move or keep what they read" in out
    short = graphc(*words, "--top", "1")[1]
    assert "conv2d_2" in short
    assert "linear" not in short
    assert "head" in graphc(*words, "--module")[1]
    found = json.loads(graphc(*words, "--json")[1])
    assert {"reference", "other", "data", "outputs_only", "values", "outputs"} <= set(found)
    assert found["values"][0] == {
        "name": "conv2d",
        "twin": "conv2d",
        "module": "stem",
        "op": "aten.conv2d",
        "shape": ["batch", 12, 7, 9],
        "sqnr_db": None,
        "relative_error": 0.0,
        "max_abs": 0.0,
        "reads": [],
        "reads_db": None,
        "rescaled": False,
        "drop_db": 0.0,
        "added_db": None,
    }
    code, out, _ = graphc(*words[:2], str(tmp_path / "small.onnx"))
    assert code == 0
    assert "outputs only" in out
    code, _, err = graphc(*words[:2], str(tmp_path / "large.pt2"))
    assert code == 2
    assert "does not exist" in err


def test_passes_and_schema(graphc: Any) -> None:
    assert "prune-heads" in graphc("passes")[1]
    assert "pruning_ratio" in graphc("passes", "prune-heads")[1]
    assert set(json.loads(graphc("passes", "--json")[1])) >= {"prune-filters", "prune-layers"}
    assert json.loads(graphc("schema")[1])["title"] == "graphc recipe"
    code, _, err = graphc("passes", "prune-head")
    assert code == 2
    assert "prune-heads" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passes": [{"type": "prune-filters", "pruning_ratio": 1.2}]}, ["1.2", "passes[0]"]),
        ({"passes": [{"type": "prune-filtrs"}]}, ["prune-filtrs", "prune-filters"]),
        ({"passes": [{"type": "prune-filters", "ratio": 0.5}]}, ["no option 'ratio'", "pruning_ratio"]),
        (
            {"passes": [{"type": "prune-filters", "pruning_ratio": 0.5, "targets": ["conv7"]}]},
            ["'conv7' matches nothing"],
        ),
        ({"passes": [{"type": "prune-filters", "filters": {"head": [0]}}]}, ["'head' matches nothing"]),
        ({"model": {"target": "tests.models:Residuum"}}, ["Residuum", "Residual"]),
        ({"data": {"train": {"target": "no_such_module:train"}}}, ["no_such_module", "data.train"]),
        ({"example_inputs": {"x": {"shape": [4, 5, 7, 9]}}}, ["do not fit"]),
        ({"example_inputs": {"y": {"shape": [4, 3, 7, 9]}}}, ["do not fit", "y"]),
        ({"emit": ["small.onx"]}, [".onx", ".onnx"]),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_do(
    graphc: Any, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    code, _, err = graphc("compile", recipe(tmp_path, **change), "-o", str(tmp_path / "out"))
    assert code == 2
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert "what to do" in err or "why" in err
    left = [p.name for p in (tmp_path / "out").rglob("*")] if (tmp_path / "out").exists() else []
    assert left == []


def test_a_folder_that_cannot_be_written(graphc: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    code, _, err = graphc("compile", recipe(tmp_path), "-o", str(tmp_path / "taken" / "out"))
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(graphc: Any, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert graphc("compile", recipe(tmp_path), "-o", str(tmp_path / "closed"))[0] == 2


def interrupt() -> None:
    """A model that takes so long that somebody presses Ctrl-C."""
    raise KeyboardInterrupt


def test_an_interruption_says_so(graphc: Any, tmp_path: Path) -> None:
    code, _, err = graphc(
        "compile", recipe(tmp_path, model={"target": "tests.test_cli:interrupt"}), "-o", str(tmp_path)
    )
    assert code == 130
    assert "nothing was left half-written" in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = recipe(tmp_path, passes=[{"type": "nothing"}])
    monkeypatch.setattr(sys, "argv", ["graphc", "compile", path, "-o", str(tmp_path), "--debug"])
    with pytest.raises(cli.GraphError):
        cli.main()
