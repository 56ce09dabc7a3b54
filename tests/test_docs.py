"""What the site is made from; docs/conftest.py runs what its pages show."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import graphc
from graphc.pipeline.base import known_passes
from graphc.pipeline.checked import options

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    return lambda name: import_module(f"generate.{name}")


def test_every_public_name_is_in_the_reference() -> None:
    named = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference" / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name.rpartition(".")[2] for name in named) == sorted(graphc.__all__)
    for name in named:
        module, _, own = name.rpartition(".")
        assert getattr(import_module(module), own) is getattr(graphc, own)


def test_every_pass_has_a_page_with_all_its_options(generate: Any) -> None:
    pages = generate("parts").pages()
    for name, kind in known_passes().items():
        if kind.__module__.startswith("graphc."):
            page = pages[f"reference/passes/{name}.md"]
            assert kind.__doc__ is not None
            assert kind.__doc__.split("\n")[0] in page
            assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(options(kind))
    assert "| `cross-entropy`" not in pages["reference/losses.md"]
    assert "## cross-entropy\n" in pages["reference/losses.md"]


def test_every_key_of_a_recipe_is_in_the_reference(generate: Any) -> None:
    page = generate("recipe").pages()["reference/recipe.md"]
    assert "| `example_inputs` |" in page
    assert "[ExampleInput](#exampleinput)" in page
    assert "## ExampleInput\n" in page


def test_every_command_is_in_the_reference(generate: Any) -> None:
    page = generate("commands").pages()["reference/cli.md"]
    assert "* [`compile`](#graphc-compile): Run a recipe: " in page
    assert "## graphc compile\n" in page
    assert "--resume" in page


def test_every_result_has_its_command(generate: Any) -> None:
    pages = generate("results").pages()
    for path in (ROOT / "benchmarks" / "results").rglob("*.md"):
        name = path.relative_to(ROOT / "benchmarks" / "results").as_posix()
        assert "$ python -m benchmarks." in pages[f"results/{name}"]


def test_drawings_are_of_the_analysis(generate: Any) -> None:
    made = generate("drawings").drawing("residual")
    assert "| `stem.out` | 16 |" in made
    assert "| `second.weight` | 16x24x3x3 | 8x24x3x3 |" in made
    assert made.count('class="axis-a"') == 11  # of four weights, two biases, five results


def test_what_is_loaded_from_elsewhere_is_found(generate: Any, tmp_path: Path) -> None:
    page = (
        '<link rel="canonical" href="https://a.example/"><link rel="stylesheet" href="https://b.example/x.css">'
        '<script src="//c.example/x.js"></script><a href="https://d.example/">link</a><img src="e.png">'
        '<img srcset="f.png 1x, https://g.example/2.png 2x"><p style="background: url(http://h.example/)"></p>'
    )
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "own.css").write_text("@import 'https://i.example/x.css'; a { background: url(own.png) }")
    found = list(generate("resources").external(tmp_path))
    assert found == [
        "own.css: https://i.example/x.css",
        "page.html: https://b.example/x.css",
        "page.html: //c.example/x.js",
        "page.html: https://g.example/2.png",
        "page.html: http://h.example/",
    ]
