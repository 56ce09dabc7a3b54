from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graphc.errors import CaptureError, RecipeError
from graphc.pipeline.base import known_passes
from graphc.pipeline.plan import captured
from graphc.pipeline.recipe import read_recipe, recipe_schema
from graphc.pipeline.targets import load_model

GOOD: dict[str, Any] = {
    "model": {"target": "tests.models:Residual"},
    "example_inputs": {"x": {"shape": [4, 3, 7, 9]}},
    "passes": [{"type": "prune-filters", "pruning_ratio": 0.5}],
}


def test_a_recipe_makes_its_passes_and_inputs() -> None:
    recipe = read_recipe({**GOOD, "example_inputs": {"i": {"shape": [5, 2], "dtype": "int64", "low": 3, "high": 9}}})
    assert [p.type for p in recipe.make_passes()] == ["prune-filters"]
    values = recipe.inputs()["i"]
    assert values.dtype == torch.int64
    assert int(values.min()) >= 3
    assert int(values.max()) < 9
    assert torch.equal(values, recipe.inputs()["i"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passses": []}, ["unknown key 'passses'", "'passes'"]),
        ({"model": {"traget": "x"}}, ["model"]),
        ({"model": {"target": "x", "parts": "y"}}, ["unknown key 'model.parts'", "'part'"]),
        ({"bench": {"thread": 2}}, ["bench.thread", "'threads'"]),
        ({"bench": {"threads": 0}}, ["bench.threads", "greater than or equal to 1"]),
        ({"seed": "many"}, ["seed", "integer"]),
        ({"seed": -1}, ["seed", "greater than or equal to 0"]),
        ({"seed": 2**32}, ["seed", "less than"]),
        ({"example_inputs": {"x": {"shape": [2], "dtyp": "int64"}}}, ["dtyp"]),
    ],
)
def test_wrong_keys_are_refused_with_the_nearest(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe({**GOOD, **change})
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "prune-filter"}, ["no pass is called 'prune-filter'", "'prune-filters'"]),
        ({"pruning_ratio": 0.5}, ["a pass has no type", "passes[0]"]),
        ({"type": "prune-filters", "ratio": 0.5}, ["no option 'ratio'", "'pruning_ratio'", "passes[0]"]),
        ({"type": "prune-filters", "pruning_ratio": 1.2}, ["pruning_ratio", "1.2", "passes[0]"]),
        ({"type": "finetune", "steps": 1, "learning_rate": float("inf")}, ["learning_rate", "finite"]),
        ({"type": "recalibrate", "name": "a\x00b"}, ["name", "printable"]),
    ],
)
def test_wrong_passes_are_refused(spec: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe({**GOOD, "passes": [spec]}).make_passes()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_two_passes_need_two_names() -> None:
    twice = [{"type": "prune-filters", "pruning_ratio": 0.5}] * 2
    with pytest.raises(RecipeError, match="two passes are called 'prune-filters'"):
        read_recipe({**GOOD, "passes": twice}).make_passes()
    named = [twice[0], {**twice[1], "name": "again"}]
    assert [p.title for p in read_recipe({**GOOD, "passes": named}).make_passes()] == ["prune-filters", "again"]


@pytest.mark.parametrize(
    "spec",
    [
        {"shape": [-1]},
        {"shape": [2], "dtype": "int64", "low": 3, "high": 3},
        {"shape": [2], "dtype": "int64", "fill": 1e300},
        {"shape": [2], "dtype": "qint8"},
    ],
)
def test_inputs_that_cannot_be_made_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="the example input cannot be made") as caught:
        read_recipe({**GOOD, "example_inputs": {"x": spec}}).inputs()
    assert caught.value.where == "example_inputs.x"


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module_of_a_user.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="the module 'broken_module_of_a_user' fails") as caught:
        load_model("broken_module_of_a_user:net", {})
    assert "ZeroDivisionError" in caught.value.why


@pytest.mark.parametrize(
    ("text", "words"),
    [("model: [", ["not valid YAML"]), ("", ["empty or no mapping"]), ("- a", ["empty or no mapping"])],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert all(word in str(caught.value) for word in words)


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: !!python/object/apply:os.getcwd []")
    with pytest.raises(RecipeError, match="not valid YAML"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_such_package:build", ["cannot import 'no_such_package'", "install"]),
        ("tests.models:Residul", ["has no 'Residul'", "'Residual'"]),
        ("tests.models:image", ["gives no model", "Tensor"]),
        ("resnet50", ["does not exist", "package.module:callable"]),
        ("torch:__version__", ["not callable"]),
        (":build", ["is not a target", "package.module:callable"]),
        (".models:Residual", ["is not a target"]),
        ("tests.mo\0dels:Residual", ["is not a target"]),
        ("x" * 300, ["does not exist"]),
        ("tests.models:Transformer.forward", ["failed", "TypeError"]),
    ],
)
def test_model_targets_that_are_none(target: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_model(target, {})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_part_of_the_model_is_compiled_alone() -> None:
    program = captured(read_recipe({**GOOD, "model": {**GOOD["model"], "part": "conv1"}}))
    assert [spec.shape for spec in program.contract.inputs] == [("batch", 12, "height", "width")]
    assert set(program.tensors()) == {"weight", "bias"}
    with pytest.raises(CaptureError) as caught:
        captured(read_recipe({**GOOD, "model": {**GOOD["model"], "part": "conv"}}))
    assert "'conv1'" in caught.value.hint


def test_what_is_no_module_has_no_parts() -> None:
    with pytest.raises(RecipeError, match="has no parts") as caught:
        captured(read_recipe({**GOOD, "model": {"target": "tests.models:residual", "part": "conv1"}}))
    assert caught.value.where == "model.part"


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no model"):
        load_model(str(tmp_path), {})


def test_the_schema_knows_every_pass_and_option() -> None:
    items = recipe_schema()["properties"]["passes"]["items"]["oneOf"]
    assert {item["properties"]["type"]["const"] for item in items} == set(known_passes())
    heads = next(item for item in items if item["properties"]["type"]["const"] == "prune-heads")
    assert {"pruning_ratio", "heads", "importance", "ranking", "round_to", "ignore", "targets"} <= set(
        heads["properties"]
    )
    assert heads["additionalProperties"] is False
