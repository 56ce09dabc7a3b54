from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from graphc.passes import PruneFilters

import graphc
from graphc.errors import EmitError, RecipeError, VerifyError
from graphc.ir.edit import rebuild
from graphc.pipeline.recipe import Bench
from tests import models


@dataclass(frozen=True, kw_only=True)
class Spoil(graphc.Pass):
    """Changes the dtype of the output, which no pass may do."""

    type: ClassVar[str] = "spoil"

    def run(self, program: graphc.Program, context: graphc.Context) -> graphc.Program:
        def edit(graph: torch.fx.Graph) -> None:
            output = graph.output_node()
            with graph.inserting_before(output):
                (value,) = torch.utils._pytree.tree_leaves(output.args[0])
                double = graph.call_function(torch.ops.aten.to.dtype, (value, torch.float64))
            output.args = ((double,),)

        return rebuild(program, edit)


@dataclass(frozen=True, kw_only=True)
class Promise(graphc.Pass):
    """Promises what does not happen."""

    type: ClassVar[str] = "promise"

    def run(self, program: graphc.Program, context: graphc.Context) -> graphc.Program:
        return program

    def ensures(self, before: graphc.Program, after: graphc.Program) -> None:
        raise graphc.GraphError("nothing happened")


def test_a_pass_that_breaks_the_contract_is_stopped_and_named() -> None:
    with pytest.raises(VerifyError, match="no longer what it was") as caught:
        graphc.compile(models.residual(), passes=[PruneFilters(pruning_ratio=0.5), Spoil()])
    assert "in pass spoil after prune-filters" in caught.value.__notes__


def test_a_promise_is_checked() -> None:
    with pytest.raises(graphc.GraphError, match="nothing happened"):
        graphc.compile(models.residual(), passes=[Promise()])


def test_names_must_differ_in_python_too() -> None:
    with pytest.raises(RecipeError, match="two passes"):
        graphc.compile(models.residual(), passes=[Promise(), Promise()])


def test_a_recipe_end_to_end(tmp_path: Path) -> None:
    recipe = {
        "model": {"target": "tests.models:Residual"},
        "example_inputs": {"x": {"shape": [4, 3, 7, 9]}},
        "passes": [{"type": "prune-filters", "pruning_ratio": 0.5}],
        "emit": ["small.onnx", "small.pt2", "small/"],
        "bench": {"warmup": 1, "repeat": 3},
    }
    events: list[str] = []
    done = graphc.compile(recipe, output_dir=tmp_path, watch=lambda event, about: events.append(event))
    assert events == ["captured", "pass", "done", *["emit", "emitted"] * 3, "report"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(json.dumps(done.report))
    onnx = next(a for a in report["artifacts"] if a["kind"] == ".onnx")
    assert onnx["bytes"] < onnx["latency"]["bytes_before"]
    assert onnx["latency"]["before_ms"] > 0
    assert {"params", "macs", "bytes"} <= set(report["before"])
    assert report["passes"][0]["facts"]["options"]["pruning_ratio"] == 0.5
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {".graphc.lock", "cache", "report.html", "report.json", "small", "small.onnx", "small.pt2"}
    again = graphc.load(tmp_path / "small.pt2")
    assert again.history == done.program.history
    x = models.image(batch=3)
    assert torch.allclose(again(x), done.program(x), atol=1e-6)


def test_emitting_needs_a_folder() -> None:
    with pytest.raises(graphc.GraphError, match="no place to write"):
        graphc.compile(models.residual(), emit=["a.onnx"])


@pytest.mark.parametrize("name", ["../a.onnx", "/tmp/a.onnx"])
def test_artifacts_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(graphc.GraphError, match="leave the output folder"):
        graphc.compile(models.residual(), emit=[name], output_dir=tmp_path)


def test_wrong_outputs_are_refused_before_the_model_is_touched(tmp_path: Path) -> None:
    class Never(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the model ran")

    with pytest.raises(EmitError, match=r"no emitter writes '\.onx'"):
        graphc.compile(Never(), (torch.randn(3, 2),), emit=["a.onx"], output_dir=tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(EmitError, match="cannot be written there"):
        graphc.compile(Never(), (torch.randn(3, 2),), emit=["a.onnx"], output_dir=blocked / "deeper")


def test_data_reaches_the_pass_and_missing_data_is_named() -> None:
    seen: list[Any] = []

    @dataclass(frozen=True, kw_only=True)
    class Look(graphc.Pass):
        type: ClassVar[str] = "look"
        data: str = "calibration"

        def run(self, program: graphc.Program, context: graphc.Context) -> graphc.Program:
            seen.extend(context.loader(self.data))
            return program

    graphc.compile(models.residual(), passes=[Look()], data={"calibration": [1, 2]})
    assert seen == [1, 2]
    with pytest.raises(RecipeError, match="needs data called 'calibration'"):
        graphc.compile(models.residual(), passes=[Look()])


def test_bench_times_every_pass() -> None:
    done = graphc.compile(
        models.residual(), passes=[PruneFilters(pruning_ratio=0.5)], bench=Bench(warmup=1, repeat=3, batch=2)
    )
    latency = done.report["passes"][0]["facts"]["latency"]
    assert latency["backend"] == "eager"
    assert latency["low"] <= latency["ratio"] <= latency["high"]


def test_an_op_without_a_rule_compiles_and_is_named() -> None:
    program = graphc.capture(models.Ruleless(), (models.vectors(),))
    facts = graphc.explain(program)
    assert facts.without_rule
    (op, places), *_ = facts.without_rule.items()
    assert op.startswith("aten.")
    assert places
    assert any(f"no rule for {op}" in why for why in facts.pins)
    assert graphc.compile(program, passes=[]).program(models.vectors(5)) is not None
