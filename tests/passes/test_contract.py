"""bind-input and select-outputs: what changes inputs and outputs says so, and all that comes after knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from graphc.passes import BindInput, Distill, Finetune, SelectOutputs
from torch import Tensor, nn

import graphc
from graphc.errors import EmitError, GraphError, RecipeError, VerifyError
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass
from graphc.pipeline.batches import fed, taken_by
from graphc.pipeline.metrics import find_metric

IDS = torch.randint(0, 11, (4, 7))


class Tagger(nn.Module):
    """Words with kinds: a state, what it tells of the whole, and a class of each word; the state comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds, self.places = nn.Embedding(11, 6), nn.Embedding(2, 6), nn.Embedding(9, 6)
        self.body, self.pooler, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places = self.places(torch.arange(ids.shape[1]))
        state = self.body(self.words(ids) + self.kinds(kinds) + places).relu()
        return state, self.pooler(state[:, 0]), self.head(state)


def captured(model: nn.Module | None = None) -> Program:
    both = {0: "batch", 1: "length"}
    inputs = {"ids": IDS, "kinds": torch.randint(0, 2, IDS.shape)}
    return graphc.capture(model or Tagger(), (), inputs, dynamic={"ids": both, "kinds": both})


def labelled(kinds: Tensor | None) -> list[dict[str, Tensor]]:
    given = {} if kinds is None else {"kinds": kinds}
    return [{"ids": IDS, **given, "labels": IDS % 3}]


STUDENT = (BindInput(inputs={"kinds": 1}), SelectOutputs(outputs=("output_2",)))


def test_a_recipe_that_binds_selects_distils_and_emits(tmp_path: Path) -> None:
    program = captured()
    ones = torch.ones_like(IDS)
    done = graphc.compile(
        program,
        passes=[*STUDENT, Distill(epochs=1, losses="hinton"), Finetune(epochs=1)],
        data={"train": labelled(ones), "eval": labelled(ones)},
        metric="cosine",
        emit=["net.onnx", "net.pt2", "net/"],
        output_dir=tmp_path,
        bench=graphc.pipeline.recipe.Bench(dims={"length": 7}, warmup=0, repeat=3),
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert [step["name"] for step in report["passes"]] == ["bind-input", "select-outputs", "distill", "finetune"]
    assert report["passes"][0]["facts"]["gone"] == ["kinds.weight"]
    assert report["passes"][0]["facts"]["changed"] == ["places.weight"]
    assert report["passes"][1]["facts"]["dropped"] == ["output_0", "output_1"]
    assert [entry["name"] for entry in report["fidelity"]] == ["output_2"]
    assert report["before"]["metric"] == pytest.approx(1)
    assert report["after"]["metric"] > 0.99
    assert [str(s) for s in done.program.contract.inputs] == ["ids: int64[batch, length]"]
    for name in ("net.pt2", "net"):
        loaded = graphc.load(tmp_path / name)
        assert [s.name for s in loaded.contract.outputs] == ["output_2"]
        torch.testing.assert_close(loaded(ids=IDS[:3])[0], done.program(ids=IDS[:3])[0])


def test_before_training_nothing_has_moved() -> None:
    report = graphc.compile(captured(), passes=STUDENT).report
    (entry,) = report["fidelity"]
    assert entry["relative_error"] < 1e-6


def test_a_teacher_gets_the_input_of_the_data_or_the_constant() -> None:
    program = captured()
    student = graphc.compile(program, passes=STUDENT).program
    for kinds, wanted in ((None, torch.ones_like(IDS)), (IDS % 2, IDS % 2)):
        batch = fed(student, labelled(kinds)[0])
        assert set(batch.kwargs) == {"ids"}
        _, given = taken_by(program, batch)
        assert torch.equal(given["kinds"], wanted)
        half = batch.of(lambda value: value[:2], 2)
        assert torch.equal(taken_by(program, half)[1]["kinds"], wanted[:2])


def test_data_without_names_in_the_order_of_the_model() -> None:
    both = {0: "batch", 1: "length"}
    program = graphc.capture(Tagger(), (IDS, IDS % 2), dynamic={"ids": both, "kinds": both})
    student = graphc.compile(program, passes=STUDENT).program
    batch = fed(student, ((IDS, IDS % 2), IDS % 3))
    assert torch.equal(batch.args[0], IDS)
    assert torch.equal(batch.others["kinds"], IDS % 2)
    assert batch.labels is not None
    batch = fed(student, (IDS, IDS % 2))
    assert len(batch.args) == 1
    assert batch.labels is None
    with pytest.raises(RecipeError, match="another number of inputs"):
        fed(student, ((IDS, IDS, IDS), IDS))


def test_a_teacher_is_compared_by_the_name_of_an_output() -> None:
    program = captured()
    exact = graphc.compile(
        program,
        passes=[*STUDENT, Distill(epochs=1, learning_rate=1e-9, losses=({"type": "logits-mse"},))],
        data={"train": labelled(torch.ones_like(IDS))},
    )
    (row,) = [step for step in exact.report["passes"] if step["name"] == "distill"]
    assert row["facts"]["training"]["steps"] == 1
    metric = find_metric("cosine", program)
    assert metric(exact.program, labelled(None)) == pytest.approx(1, abs=1e-5)


def test_the_class_of_the_model_has_no_such_form() -> None:
    model = Tagger().eval()
    student = graphc.compile(captured(model), passes=STUDENT).program
    with pytest.raises(EmitError, match="the input 'kinds' is a constant and the output 'output_0' is dropped"):
        graphc.to_module(student, model)


@dataclass(frozen=True, kw_only=True)
class Silent(Pass):
    """Drops an output and does not say so."""

    type: ClassVar[str] = "silent"

    def run(self, program: Program, context: Context) -> Program:
        return SelectOutputs(outputs=(0,)).run(program, context)


def test_a_pass_that_changes_the_contract_says_so() -> None:
    with pytest.raises(VerifyError, match="the number of outputs changed"):
        graphc.compile(captured(), passes=[Silent()])


def never() -> Iterator[Any]:
    raise AssertionError("no batch is read before the passes are checked")


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (BindInput(inputs={"kind": 0}), "did you mean 'kinds'"),
        (BindInput(inputs={"kinds": 0.5}), "the value is float32"),
        (BindInput(inputs={"kinds": [[0, 1, 0]]}), "does not broadcast to it"),
        (BindInput(inputs={"kinds": 0, "ids": 0}), "it is the only input"),
        (BindInput(inputs={"kinds": {"target": "builtins:dict"}}), "it gave a dict"),
        (SelectOutputs(outputs=("output_9",)), "there is no output 'output_9'"),
        (SelectOutputs(outputs=()), "no output is selected"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(item: Pass, text: str) -> None:
    with pytest.raises(GraphError, match=text) as caught:
        graphc.compile(captured(), passes=[Finetune(epochs=1), item], data={"train": never})
    assert caught.value.__notes__ == [f"in pass {item.title}"]


def test_passes_bind_and_select_in_turn() -> None:
    passes = [SelectOutputs(outputs=(2, "output_0")), replace(STUDENT[1], name="again")]
    done = graphc.compile(captured(), passes=passes)
    assert [s.name for s in done.program.contract.outputs] == ["output_2"]
    assert [s.name for s in done.program.contract.dropped] == ["output_1", "output_0"]
    with pytest.raises(GraphError, match="there is no output 'output_1'"):
        graphc.compile(captured(), passes=[SelectOutputs(outputs=(0,)), SelectOutputs(name="b", outputs=("output_1",))])


def test_a_target_gives_a_constant() -> None:
    done = graphc.compile(
        captured(),
        passes=[
            BindInput(inputs={"kinds": {"target": "torch:ones", "kwargs": {"size": [1, 1], "dtype": torch.int64}}})
        ],
    )
    torch.testing.assert_close(done.program(ids=IDS), done.original(ids=IDS, kinds=torch.ones_like(IDS)))


def test_a_mapping_that_is_no_target() -> None:
    with pytest.raises(RecipeError, match="the input 'kinds' cannot be"):
        BindInput(inputs={"kinds": {"value": 0}})
