from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from graphc.passes import Recalibrate

import graphc
from graphc.errors import GraphError
from graphc.pipeline.recipe import Recipe, read_recipe, recipe_schema
from graphc.pipeline.search import search
from graphc.pipeline.search_result import Found, front
from graphc.pipeline.search_space import read_space
from graphc.pipeline.search_trial import Start, check_candidate
from tests.pipeline.test_sensitivity import accuracy_of, network

pytest.importorskip("optuna", reason="pip install 'graphc[search]'")

ROOT = Path(__file__).parents[2]
GATE = "GRAPHC_TEST_GATE"
"""Names a folder: the metric stops for good there when it is taken for the third time."""

RECIPE: dict[str, Any] = {
    "model": {"target": "tests.pipeline.test_sensitivity:network"},
    "example_inputs": {"x": {"shape": [4, 3, 16, 16]}},
    "data": {
        "eval": {"target": "tests.pipeline.test_sensitivity:batches"},
        "calibration": {"target": "tests.pipeline.test_sensitivity:batches"},
    },
    "metric": "tests.pipeline.test_search:counted",
    "passes": [{"type": "prune-filters", "pruning_ratio": 0.5}, {"type": "quantize"}],
    "bench": None,
    "search": {
        "choices": {
            "prune-filters": {
                "pruning_ratio": {"low": 0.1, "high": 0.85, "step": 0.1},
                "importance": ["l1", "l2", "fpgm"],
            },
            "quantize": [None, {"scheme": "float16"}],
        },
        "constraints": {"macs": "70%"},
        "population_size": 4,
        "trials": 8,
        "heartbeat": 0.5,
    },
}
TAKEN: list[float] = []


def counted(program: Any, loader: Any) -> float:
    """Accuracy; how often it was taken is seen from outside."""
    TAKEN.append(accuracy_of(program))
    if GATE in os.environ and len(TAKEN) == 3:
        (Path(os.environ[GATE]) / "reached").touch()
        time.sleep(600)
    return TAKEN[-1]


def recipe(**change: Any) -> Recipe:
    return read_recipe({**RECIPE, "search": {**RECIPE["search"], **change}})


def figures(found: Found) -> list[tuple[int, dict[str, float]]]:
    return [(candidate.number, dict(candidate.figures)) for candidate in found.candidates]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Path, int]:
    """A search, its folder, and how often the metric was taken."""
    folder = tmp_path_factory.mktemp("search")
    TAKEN.clear()
    found = search(recipe(), folder, home=ROOT / "tests")
    return found, folder, len(TAKEN)


def test_figures_are_those_of_the_candidates(done: tuple[Found, Path, int]) -> None:
    found, folder, taken = done
    assert len(found.candidates) == 8
    limit = found.limits["macs"]
    assert limit == pytest.approx(0.7 * found.baseline["macs"])
    over = [candidate for candidate in found.candidates if candidate.figures["macs"] > limit]
    assert over
    assert all(not candidate.fits and "metric" not in candidate.figures for candidate in over)
    assert taken == 1 + len(found.candidates) - len(over)  # the model's own, and of no candidate above the limit
    assert all(0.1 <= c.choices["prune-filters.pruning_ratio"] <= 0.8 for c in found.candidates)
    chosen = {json.dumps(c.choices, sort_keys=True, default=str) for c in found.candidates}
    assert len(chosen) == 8
    assert json.loads((folder / "search.json").read_text()) == json.loads(json.dumps(found.to_dict()))


def test_recipes_of_the_best_compile_to_the_same_figures(done: tuple[Found, Path, int]) -> None:
    found, folder, _ = done
    assert found.pareto
    fit = [c for c in found.candidates if c.fits]
    for candidate in fit:
        better = [
            c
            for c in fit
            if c.figures["metric"] >= candidate.figures["metric"]
            and c.figures["macs"] <= candidate.figures["macs"]
            and c.figures != candidate.figures
        ]
        assert candidate.pareto or better or candidate.figures in [c.figures for c in found.pareto]
        assert not (candidate.pareto and [c for c in better if c.figures["macs"] < candidate.figures["macs"]])
    assert {path.name for path in (folder / "pareto").iterdir()} == {f"{c.number}.yaml" for c in found.pareto}
    for candidate in found.pareto:
        assert candidate.recipe is not None
        report = graphc.compile(folder / candidate.recipe).report
        after = {name: report["after"][name] for name in ("macs", "params", "bytes", "metric")}
        assert after == candidate.figures
        values = yaml.safe_load((folder / candidate.recipe).read_text())
        assert (folder / "pareto" / values["import_from"][0]).resolve() == ROOT / "tests"
        assert "search" not in values


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    done: tuple[Found, Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, calls = Start.figures, []

    def stopped(self: Start, *rest: Any) -> dict[str, float]:
        calls.append(rest)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return take(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Start, "figures", stopped)
        with pytest.raises(KeyboardInterrupt):
            search(recipe(), tmp_path)
    assert not (tmp_path / "search.json").exists()
    with pytest.raises(GraphError, match="begun before"):
        search(recipe(), tmp_path)
    with pytest.raises(GraphError, match="of another recipe"):
        search(recipe(constraints={"macs": "60%"}), tmp_path, resume=True)
    again = search(recipe(), tmp_path, resume=True)
    assert len(again.candidates) == 8
    assert figures(again)[:3] == figures(done[0])[:3]
    assert figures(done[0])[3][1] in [own for _, own in figures(again)]  # the one in which it was stopped
    more = search(recipe(trials=9), tmp_path, resume=True)
    assert figures(more)[:8] == figures(again)
    assert len(more.candidates) == 9


def test_two_processes_split_the_work_and_lose_nothing_when_one_is_killed(tmp_path: Path) -> None:
    file, folder = tmp_path / "recipe.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump({**RECIPE, "search": {**RECIPE["search"], "constraints": {}}}))
    command = [sys.executable, "-m", "graphc", "search", str(file), "-o", str(folder)]
    with (tmp_path / "log").open("w") as log:
        other = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, GATE: str(tmp_path)}, stdout=log, stderr=subprocess.STDOUT
        )
        while not (tmp_path / "reached").exists():
            assert other.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
    waited: list[int] = []

    def watch(event: str, about: Any) -> None:
        if event == "waiting" and other.poll() is None:
            waited.append(about)
            if len(waited) == 6:  # it was waited for longer than a dead process is
                other.send_signal(signal.SIGKILL)
                other.wait()

    found = search(read_recipe(file), folder, resume=True, watch=watch)
    assert waited == [1] * 6
    assert len(found.candidates) == 8
    assert all(candidate.fits for candidate in found.candidates)
    numbers = [candidate.number for candidate in found.candidates]
    assert numbers[0] == 0  # of the process that was killed
    assert 1 not in numbers  # in the midst of which it was
    last = {"prune-filters.pruning_ratio": 0.8, "prune-filters.importance": "fpgm", "quantize": {"scheme": "float16"}}
    assert last in [candidate.choices for candidate in found.candidates]


def test_front_against_its_definition() -> None:
    draw = random.Random(0)
    rows = [[draw.randrange(6), draw.randrange(6), draw.randrange(3)] for _ in range(60)]

    def beats(a: list[int], b: list[int]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    expected = {i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)}
    found = front(rows)
    assert {tuple(rows[i]) for i in expected} == {tuple(rows[i]) for i in found}
    assert len(found) == len({tuple(rows[i]) for i in found})
    assert all(rows.index(rows[i]) == i for i in found)


def test_constraints_that_nothing_meets_name_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graphc import cli

    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "search": {**RECIPE["search"], "constraints": {"params": 100}}}))
    words = ["graphc", "search", str(file), "-o", str(tmp_path / "out"), "--trials", "3"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    content = json.loads((tmp_path / "out" / "search.json").read_text())
    least = min(content["candidates"], key=lambda candidate: candidate["figures"]["params"])
    assert "none of 3 candidates keeps the constraints" in shown
    miss = least["figures"]["params"] / 100 - 1
    assert (
        f"candidate {least['number']}, has params {least['figures']['params']} for 100 ({miss:.1%} too much)" in shown
    )
    assert not list((tmp_path / "out" / "pareto").iterdir())


def test_table_plot_and_json(
    done: tuple[Found, Path, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from rich.console import Console

    from graphc import view_search
    from graphc.plot import find_search_plot

    pytest.importorskip("matplotlib", reason="pip install 'graphc[plot]'")
    found, folder, _ = done
    view_search.candidates(Console(width=200), found, folder)
    shown = capsys.readouterr().out
    for candidate in found.pareto:
        assert f"pareto/{candidate.number}.yaml" in shown
        assert f"{candidate.figures['macs']:,} ({candidate.figures['macs'] / found.baseline['macs']:.1%})" in shown
    find_search_plot()(found, tmp_path / "search.svg")
    drawn = (tmp_path / "search.svg").read_text(encoding="utf-8")
    assert ">macs<" in drawn
    assert all(f">{candidate.number}<" in drawn for candidate in found.pareto)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samplers_and_databases(sampler: str, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    found = search(recipe(sampler=sampler, trials=6, storage=storage), tmp_path / "out")
    assert len(found.candidates) == 6
    assert not (tmp_path / "out" / "search.journal").exists()
    with pytest.raises(GraphError, match="begun before"):
        search(recipe(sampler=sampler, storage=storage), tmp_path / "out")


def test_small_spaces_end(tmp_path: Path) -> None:
    choices = {"prune-filters": {"importance": ["l1", "l2"]}, "quantize": [None, {"scheme": "float16"}]}
    found = search(recipe(choices=choices, trials=50, constraints={}, objectives=["macs", "bytes"]), tmp_path)
    assert len(found.candidates) == 4
    assert found.metric is None
    assert all("metric" not in candidate.figures for candidate in found.candidates)


def test_passes_offer_choices_by_name(tmp_path: Path) -> None:
    choices = {
        "prune-filters": {"pruning_ratios": {"each": {"low": 0.0, "high": 0.75, "step": 0.25}}},
        "quantize": [None],
    }
    found = search(recipe(choices=choices, trials=4, constraints={}), tmp_path)
    program = graphc.capture(network(), (torch.randn(4, 3, 16, 16),))
    own = [a.name for a in graphc.find_axes(program) if "filters" in a.roles and a.pinned is None and not a.mixed]
    names = {f"prune-filters.pruning_ratios.{name}" for name in own}
    assert names
    assert all(set(candidate.choices) == {*names, "quantize"} for candidate in found.candidates)
    assert found.candidates[0].figures["macs"] == found.baseline["macs"]


def test_what_is_above_a_limit_is_dropped_before_passes_that_cannot_help_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = Recalibrate.run, []
    monkeypatch.setattr(Recalibrate, "run", lambda self, *rest: (calls.append(rest), run(self, *rest))[1])
    passes = [{"type": "prune-filters"}, {"type": "recalibrate"}]
    choices = {"prune-filters": {"pruning_ratio": [0.05, 0.1, 0.5, 0.6]}}
    found = search(
        read_recipe({**RECIPE, "passes": passes, "search": {"choices": choices, "constraints": {"macs": "60%"}}}),
        tmp_path,
    )
    within = [candidate for candidate in found.candidates if candidate.fits]
    assert len(found.candidates) == 4
    assert 0 < len(within) == len(calls) < 4


def test_the_example_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    made = read_recipe(ROOT / "examples" / "search.yaml")
    assert made.search is not None
    space = read_space(made.passes, made.search.choices)
    assert space.count == 11 * 3 * 3
    assert all(check_candidate(made, space.passes(params)) for _, params in space.variants())


def elastic_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels for an elastic network."""
    draw = torch.Generator().manual_seed(3)
    return [(torch.randn(8, 3, 20, 22, generator=draw), torch.randint(0, 5, (8,), generator=draw))]


def test_an_elastic_network(tmp_path: Path) -> None:
    asked = {"kernel": [7, 5, 3], "expand": [6, 4, 3], "depth": [3, 2, 1]}
    made = read_recipe(
        {
            **RECIPE,
            "model": {"target": "tests.passes.elastic.nets:supernet"},
            "example_inputs": {"x": {"shape": [3, 3, 20, 22]}},
            "data": {key: {"target": "tests.pipeline.test_search:elastic_batches"} for key in ("eval", "calibration")},
            "metric": "accuracy",
            "passes": [{"type": "slice-elastic", "kernel": 7, "expand": 6, "depth": 3}, {"type": "recalibrate"}],
            "search": {
                "choices": {"slice-elastic": {option: {"each": values} for option, values in asked.items()}},
                "constraints": {"macs": "60%"},
                "trials": 5,
            },
        }
    )
    found = search(made, tmp_path)
    assert len(found.candidates[0].choices) == 6 + 6 + 2
    values = {option: sorted(asked[option], reverse=True) for option in asked}
    assert all(value in values[name.split(".")[1]] for c in found.candidates for name, value in c.choices.items())
    assert found.candidates[0].figures["macs"] == found.baseline["macs"]
    assert "metric" not in found.candidates[0].figures
    for candidate in found.pareto:
        assert candidate.recipe is not None
        report = graphc.compile(tmp_path / candidate.recipe).report
        assert {name: report["after"][name] for name in candidate.figures} == candidate.figures
        assert candidate.figures["macs"] <= 0.6 * found.baseline["macs"]


def test_latency_is_measured(tmp_path: Path) -> None:
    made = read_recipe(
        {
            **RECIPE,
            "bench": {"warmup": 0, "repeat": 3},
            "search": {**RECIPE["search"], "constraints": {"latency_ms": 1e6}, "trials": 2},
        }
    )
    found = search(made, tmp_path)
    assert list(found.objectives) == ["metric", "latency_ms"]
    assert all(0 < candidate.figures["latency_ms"] < 1000 for candidate in found.candidates)


def test_candidates_that_cannot_be_are_no_end(tmp_path: Path) -> None:
    choices = {"prune-filters": {"targets": [["conv1"], ["nowhere"]]}, "quantize": [None]}
    found = search(recipe(choices=choices, constraints={}), tmp_path)
    refused = [candidate for candidate in found.candidates if candidate.refused]
    assert ["nowhere" in candidate.refused for candidate in refused] == [True]
    assert len(found.candidates) == 2
    with pytest.raises(GraphError, match="all 1 candidates were refused"):
        search(recipe(choices={"prune-filters": {"targets": [["nowhere"]]}}), tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choices": {}}, "there is nothing to choose"),
        ({"choices": {"prune-filter": {"pruning_ratio": [0.1]}}}, "did you mean 'prune-filters'"),
        ({"choices": {"prune-filters": {"pruning_ration": [0.1]}}}, "no option 'pruning_ration'"),
        ({"choices": {"prune-filters": {"pruning_ratio": [0.1, 1.5]}}}, "cannot be 1.5"),
        ({"choices": {"prune-filters": {"pruning_ratio": {"low": 0.5, "high": 0.5}}}}, "low must be below high"),
        ({"choices": {"prune-filters": {"pruning_ratio": {"low": 0.5, "hihg": 0.5}}}}, "is no range"),
        ({"choices": {"prune-filters": {"pruning_ratio": {"low": 0, "high": 0.5, "log": True}}}}, "starts above 0"),
        ({"choices": {"prune-filters": {"importance": []}}}, "nothing to choose from"),
        ({"choices": {"prune-filters": {"importance": ["l1", "l1"]}}}, "is there twice"),
        ({"choices": {"prune-filters": {"importance": "l1"}}}, "is no choice"),
        ({"choices": {"quantize": [None, "W8A8"]}}, "stands for no pass"),
        ({"choices": {"quantize": "all"}}, "offers no choices here"),
        ({"constraints": {"macs": "much"}}, "is no amount"),
        ({"constraints": {"macs": "0%"}}, "is no budget"),
        ({"constraints": {"latency_ms": 1}, "latency_table": "nowhere.json"}, "no latency table"),
        ({"storage": "nothing://"}, "cannot open the storage"),
    ],
)
def test_sections_that_are_wrong(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=words):
        search(recipe(**change), tmp_path)
    assert not (tmp_path / "search.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"search": {"constraint": {}}}, "did you mean 'constraints'"),
        ({"search": {"constraints": {"flops": 1}}}, "'macs', 'params', 'bytes' or 'latency_ms'"),
        ({"search": {"sampler": "grid"}}, "'nsga-ii', 'tpe' or 'random'"),
    ],
)
def test_keys_that_are_wrong(change: dict[str, Any], words: str) -> None:
    with pytest.raises(GraphError, match=words):
        read_recipe({**RECIPE, **change})


def test_a_metric_is_needed(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="needs a metric"):
        search(read_recipe({**RECIPE, "metric": None}), tmp_path)


def test_choices_become_passes() -> None:
    specs = [{"type": "a", "name": "first", "deep": {"list": [{"x": 1}, {"x": 2}]}}, {"type": "b"}]
    tree = {"first": {"deep": {"list": {1: {"x": [5, 6]}}, "new": {"low": 1, "high": 9}}}, "b": [None, {"y": [1]}]}
    space = read_space(specs, tree)
    assert [choice.name for choice in space.choices] == ["first.deep.list.1.x", "first.deep.new", "b"]
    assert space.count == 2 * 9 * 2
    first, last = (space.passes(params) for params in space.corners)
    assert first == [{"type": "a", "name": "first", "deep": {"list": [{"x": 1}, {"x": 5}], "new": 1}}]
    assert last[1] == {"type": "b", "y": [1]}
    assert last[0]["deep"] == {"list": [{"x": 1}, {"x": 6}], "new": 9}
    assert specs[0]["deep"] == {"list": [{"x": 1}, {"x": 2}]}


def test_the_schema_has_it() -> None:
    section = recipe_schema()["$defs"]["Search"]["properties"]
    assert {"choices", "constraints", "sampler", "trials"} <= set(section)
