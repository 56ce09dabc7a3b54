"""What the README says is what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

import graphc
from graphc.pipeline.base import known_passes

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_its_recipe_is_the_example() -> None:
    (recipe,) = blocks("yaml")
    assert yaml.safe_load(recipe) == yaml.safe_load((ROOT / "examples" / "minilm.yaml").read_text(encoding="utf-8"))


def test_its_table_has_every_pass() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)
    ours = {name for name, kind in known_passes().items() if kind.__module__.startswith("graphc.")}
    assert set(rows) == ours


def test_its_python_speaks_of_what_there_is() -> None:
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "graphc":
                assert node.attr in graphc.__all__, node.attr


def test_its_list_of_names_is_whole() -> None:
    listed = set(re.findall(r"`(\w+)`", TEXT.partition("The whole:")[2].partition("## Passes")[0]))
    assert listed == set(graphc.__all__) - {"Artifact", "Compilation"}


def test_its_commands_exist() -> None:
    for name in re.findall(r"python -m benchmarks\.([\w.]+)", TEXT):
        place = ROOT / "benchmarks" / name.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), name
    for path in re.findall(r"graphc compile (\S+\.yaml)", TEXT):
        assert (ROOT / path).exists(), path
