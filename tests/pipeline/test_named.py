"""What a recipe runs is known before it runs, and a recipe is of a size that a person writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import graphc
from graphc.cli import app
from graphc.errors import GraphError, RecipeError
from graphc.pipeline.named import targets
from graphc.pipeline.recipe import read_recipe
from tests import models


def test_targets_wherever_they_stand() -> None:
    recipe = {
        "model": {"target": "a.b:c", "kwargs": {"trust_remote_code": True}},
        "passes": [{"type": "distill", "losses": [{"type": "own:Loss"}], "teacher": {"target": "t:t"}}],
        "metric": "m:m",
        "emit": ["C:/x.onnx"],
    }
    assert targets(recipe) == [
        ("model.target", "a.b:c"),
        ("model.kwargs.trust_remote_code", "code that comes with the model"),
        ("passes[0].losses[0].type", "own:Loss"),
        ("passes[0].teacher.target", "t:t"),
        ("metric", "m:m"),
    ]


def test_the_command_line_says_them_before_it_imports_anything(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model: {target: 'no_such_module:make'}\npasses: []\n")
    result = CliRunner().invoke(app, ["compile", str(recipe), "-o", str(tmp_path / "out")])
    assert "the recipe runs no_such_module:make (model.target)" in result.output
    assert isinstance(result.exception, GraphError)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model: &a {target: 'x:y', kwargs: {a: *a}}", "too deeply"),
        (
            "\n".join(
                ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
                + [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
            ),
            "too large",
        ),
        ("model: !!python/object/apply:os.getpid []", "not valid YAML"),
    ],
    ids=["circle", "billions", "python"],
)
def test_yaml_that_is_no_recipe(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=what):
        read_recipe(path)


def test_artifacts_stay_in_the_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path)
    for name in ("sub/m.pt2", "../m.pt2", str(tmp_path / "m.pt2")):
        with pytest.raises(GraphError, match="would leave the output folder"):
            graphc.compile(models.residual(), emit=[name], output_dir=tmp_path / "out")
