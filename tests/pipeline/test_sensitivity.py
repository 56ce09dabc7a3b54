from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from graphc.passes import PruneFilters, PruneLayers

import graphc
from graphc.errors import GraphError, RecipeError
from graphc.pipeline import sensitivity as module
from graphc.pipeline.recipe import Recipe, read_recipe
from graphc.pipeline.sensitivity import sensitivity
from tests import models

RECIPE: dict[str, Any] = {
    "model": {"target": "tests.pipeline.test_sensitivity:network"},
    "example_inputs": {"x": {"shape": [4, 3, 16, 16]}},
    "data": {"eval": {"target": "tests.pipeline.test_sensitivity:batches"}},
    "metric": "accuracy",
    "passes": [
        {"type": "prune-filters", "pruning_ratio": 0.5},
        {"type": "prune-layers", "pruning_ratio": 0.5},
        {"type": "sparsify", "sparsity": 0.5, "targets": ["conv1"]},
    ],
}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.randomise(models.Residual(width=8)).eval()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The network's own answers are the labels, so its accuracy is 1."""
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [(x, network()(x).argmax(1))]


def recipe(**change: Any) -> Recipe:
    return read_recipe({**RECIPE, **change})


def accuracy_of(program: Any) -> float:
    ((x, y),) = batches()
    with torch.no_grad():
        return float((program(x).argmax(1) == y).double().mean())


def test_each_item_alone(tmp_path: Path) -> None:
    found = sensitivity(recipe(), tmp_path, [0.25, 0.5])
    assert found.baseline == 1.0
    rows = found.rows()
    names = {item for title, item in rows if title == "prune-filters"}
    program = graphc.capture(network(), (torch.randn(4, 3, 16, 16),))
    own = [axis for axis in graphc.find_axes(program) if "filters" in axis.roles]
    assert names == {axis.name for axis in own if axis.pinned is None and not axis.mixed}
    cut = graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.5, targets=("conv1",))]).program
    assert rows["prune-filters", "conv1.out"][0.5] == pytest.approx(1 - accuracy_of(cut))
    (layer,) = [item for title, item in rows if title == "prune-layers"]
    shorter = graphc.compile(program, passes=[PruneLayers(layers=(0,))]).program
    assert rows["prune-layers", layer] == {1.0: pytest.approx(1 - accuracy_of(shorter))}
    assert set(rows["sparsify", "conv1.weight"]) == {0.25, 0.5}
    assert max(max(row.values()) for row in rows.values()) > 0.1
    assert json.loads((tmp_path / "sensitivity.json").read_text())["baseline"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["sensitivity.json"]


def test_processes_find_the_same(tmp_path: Path) -> None:
    one, two = (sensitivity(recipe(), tmp_path / f"{jobs}", [0.5], jobs=jobs) for jobs in (1, 2))
    assert one == two


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take, seen = module._Bench.take, []

    def stopped(self: Any, key: Any) -> float:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(key)
        return take(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(module._Bench, "take", stopped)
        with pytest.raises(KeyboardInterrupt):
            sensitivity(recipe(), tmp_path, [0.5])
    calls: list[Any] = []
    monkeypatch.setattr(module._Bench, "take", lambda self, key: (calls.append(key), take(self, key))[1])
    found = sensitivity(recipe(), tmp_path, [0.5])
    assert len(calls) == len(found.probes) - 2
    assert not set(calls) & set(seen)
    other = sensitivity(recipe(seed=1), tmp_path, [0.5])
    assert len(other.probes) == len(found.probes)


def write(folder: Path, baseline: float, **items: float) -> str:
    probes = [
        {"title": "p", "item": i.replace("__", "."), "ratio": 0.5, "metric": baseline - x} for i, x in items.items()
    ]
    file = folder / "s.json"
    file.write_text(json.dumps({"metric": "m", "baseline": baseline, "probes": probes}))
    return str(file)


def test_passes_take_it_as_importance(tmp_path: Path) -> None:
    program = graphc.capture(models.Residual(width=16), (torch.randn(3, 3, 16, 16),))
    names = [axis.name for axis in graphc.find_axes(program) if axis.pinned is None and "filters" in axis.roles]
    assert "conv1.out" in names
    losses = {name.replace(".", "__"): 0.001 for name in names} | {"conv1__out": 0.5}
    options: dict[str, Any] = {"pruning_ratio": 0.3, "ranking": "global", "mixed": True, "min_size": 2}
    plain = graphc.compile(program, passes=[PruneFilters(**options)]).program
    taken = graphc.compile(
        program, passes=[PruneFilters(sensitivity=write(tmp_path, 0.9, **losses), **options)]
    ).program
    widths = [p.tensors()["conv1.weight"].shape[0] for p in (plain, taken)]
    assert widths[0] < widths[1] == 32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": None}, "needs a metric"),
        ({"data": {}}, "the metric needs data called 'eval'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        (
            {"passes": [{"type": "recalibrate"}], "data": {**RECIPE["data"], "calibration": RECIPE["data"]["eval"]}},
            "nothing to probe",
        ),
    ],
)
def test_recipes_that_cannot_be_probed(change: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=words):
        sensitivity(recipe(**change), tmp_path)
    assert not (tmp_path / "sensitivity.json").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    program = graphc.capture(network(), (torch.randn(4, 3, 16, 16),))
    for file, words in (
        ("nowhere.json", "is no sensitivity.json"),
        (write(tmp_path, 1.0, other=0.5), "says nothing of"),
    ):
        with pytest.raises(RecipeError, match=words):
            graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.5, sensitivity=file)])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    from graphc import cli

    pytest.importorskip("matplotlib", reason="pip install 'graphc[plot]'")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "passes": RECIPE["passes"][:1]}))
    words = ["graphc", "sensitivity", str(path), "-o", str(tmp_path / "out"), "--ratios", "0.5", "--plot"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "conv1.out" in capsys.readouterr().out
    assert ">conv1.out<" in (tmp_path / "out" / "sensitivity.svg").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [*words[:-3], "--ratios", "a,b"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
