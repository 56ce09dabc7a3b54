"""Comparison of what users name: recipes, .pt2 files, folders and .onnx files, on whose data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.errors import GraphError
from graphc.ir.edit import rebuild
from graphc.pipeline.comparison import comparison
from graphc.pipeline.model import Model
from graphc.pipeline.plan import captured
from graphc.pipeline.recipe import Recipe, read_recipe

RECIPE: dict[str, Any] = {
    "model": {"target": "tests.models:Residual"},
    "example_inputs": {"x": {"shape": [4, 3, 7, 9]}},
}
BATCHES = {"target": "tests.pipeline.test_comparison:batches"}
taken: list[int] = []


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    for size in (5, 6, 7):
        taken.append(size)
        yield torch.randn(size, 3, 7, 9, generator=generator), torch.zeros(size)


def rounded(program: graphc.Program) -> graphc.Program:
    """Convolutions in steps of a 127th of each filter's largest weight."""
    new: dict[str, Tensor] = {}
    for name, value in program.tensors().items():
        if value.dim() == 4:
            step = value.detach().flatten(1).abs().amax(1)[:, None, None, None] / 127
            new[name] = nn.Parameter((value.detach() / step).round() * step)
    return rebuild(program, tensors=new)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("r.yaml", "g.yaml"):
        (folder / name).touch()
    program = captured(read_recipe(RECIPE))
    graphc.emit(rounded(program), folder / "b.pt2")
    graphc.emit(rounded(program), f"{folder}/b/")
    graphc.emit(rounded(program), folder / "b.onnx")
    graphc.emit(program, folder / "a.onnx")
    return folder


def recipe(**change: Any) -> Recipe:
    return read_recipe({**RECIPE, **change})


def test_files_have_the_values_that_were_written(files: Path) -> None:
    reference = Model(files / "r.yaml", recipe())
    first, second = (comparison(reference, Model(files / name)) for name in ("b.pt2", "b"))
    assert first.data == "the example inputs of r.yaml"
    assert [v.name for v in first.deviations.values] == [v.name for v in second.deviations.values]
    assert {v.name: v.twin for v in first.deviations.values} == {v.name: v.name for v in first.deviations.values}
    assert all(30 < value.sqnr_db < 70 for value in first.deviations.values)
    assert len(first.deviations.values) == 12
    for a, b in zip(first.deviations.values, second.deviations.values, strict=True):
        assert b.sqnr_db == pytest.approx(a.sqnr_db, abs=0.01)


def test_onnx_files_have_outputs_only(files: Path) -> None:
    program = comparison(Model(files / "r.yaml", recipe()), Model(files / "b.pt2")).deviations.outputs[0]
    for reference, data in ((Model(files / "r.yaml", recipe()), "r.yaml"), (Model(files / "a.onnx"), "random inputs")):
        found = comparison(reference, Model(files / "b.onnx"))
        assert found.outputs_only
        assert data in found.data
        assert found.deviations.values == ()
        assert found.deviations.outputs[0].sqnr_db == pytest.approx(program.sqnr_db, abs=8)
    back = comparison(Model(files / "b.onnx"), Model(files / "b.pt2"))
    assert back.data == "the example inputs of b.pt2"
    assert back.deviations.outputs[0].sqnr_db > 100


def test_a_recipes_data(files: Path) -> None:
    asked: list[tuple[int, int]] = []
    taken.clear()
    reference = Model(files / "r.yaml", recipe(data={"eval": BATCHES}))
    found = comparison(
        reference, Model(files / "b.pt2"), 8, progress=lambda done, total, text: asked.append((done, total))
    )
    assert (taken, asked) == ([5, 6], [(5, 8), (8, 8)])
    assert "8 samples of the eval data of r.yaml" in found.data
    mirrored = comparison(Model(files / "b.onnx"), reference, 8)
    assert mirrored.data == found.data
    assert mirrored.deviations.outputs[0].max_abs == pytest.approx(found.deviations.outputs[0].max_abs, rel=1e-2)
    both = recipe(data={"eval": BATCHES, "calibration": BATCHES})
    assert "calibration" in comparison(Model(files / "r.yaml", both), Model(files / "b.pt2")).data


def test_sizes_of_the_examples(files: Path) -> None:
    found = comparison(Model(files / "a.onnx"), Model(files / "b.onnx"), dims={"batch": 3})
    assert found.deviations.outputs[0].sqnr_db > 20
    with pytest.raises(GraphError, match="no dynamic dim is called 'bach'"):
        comparison(Model(files / "a.onnx"), Model(files / "b.onnx"), dims={"bach": 3})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("no.pt2", {}, "does not exist"),
        ("text.txt", {}, "give a recipe"),
        ("broken.onnx", {}, "this is no ONNX file"),
        ("broken.pt2", {}, "no file of torch.export"),
        ("b.pt2", {"samples": 3}, "no data to take 3 samples"),
    ],
)
def test_mistakes(files: Path, name: str, options: dict[str, Any], words: str) -> None:
    for file in ("text.txt", "broken.onnx", "broken.pt2"):
        (files / file).write_text("something else")
    with pytest.raises(GraphError) as error:
        comparison(Model(files / "r.yaml", recipe()), Model(files / name), **options)
    assert words in str(error.value)


def test_models_that_do_not_fit_are_refused_before_data_is_read(files: Path) -> None:
    taken.clear()
    other = recipe(model={"target": "tests.models:Grouped"}, example_inputs={"x": {"shape": [4, 3, 8, 8]}})
    with pytest.raises(GraphError, match="cannot be compared"):
        comparison(Model(files / "r.yaml", recipe(data={"eval": BATCHES})), Model(files / "g.yaml", other))
    assert not taken


def test_sizes_are_those_of_the_data(files: Path) -> None:
    with pytest.raises(GraphError, match="the sizes are those of the data"):
        comparison(Model(files / "r.yaml", recipe(data={"eval": BATCHES})), Model(files / "b.pt2"), dims={"batch": 2})
