"""What the pages show is run: Python as it stands, recipes and commands as far as they are checked before any work.

A block of text after one of Python is what that prints. The Python of a page is a module that its recipes may name.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import typer
import yaml
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from graphc.cli import app
from graphc.pipeline.recipe import read_recipe

ROOT = Path(__file__).parents[1]
MODULE = "yours"
PRINTED = "_printed"


class Page(ModuleType):
    """The names of a page, as a module that recipes can name."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(MODULE)
        self.__dict__["names"] = names

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["names"][name]
        except KeyError:
            raise AttributeError(name) from None


def start(names: dict[str, Any]) -> None:
    """A folder and a module for each page, with the examples beside it."""
    folder = tempfile.TemporaryDirectory()
    names |= {"__name__": MODULE, "_folder": folder, "_before": os.getcwd()}
    sys.modules[MODULE] = Page(names)
    sys.path.insert(0, str(ROOT / "examples"))
    os.chdir(folder.name)
    torch.manual_seed(0)


def stop(names: dict[str, Any]) -> None:
    """Back to where it was."""
    os.chdir(names["_before"])
    names["_folder"].cleanup()
    sys.path.remove(str(ROOT / "examples"))
    del sys.modules[MODULE]


class Printing(PythonEvaluator):
    """Runs Python and keeps what it prints."""

    def __call__(self, example: Example) -> None:
        """Run a block."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            super().__call__(example)
        example.namespace[PRINTED] = printed.getvalue()


def text(example: Example) -> None:
    """What the Python before it has printed."""
    assert example.parsed.strip() == example.namespace.pop(PRINTED).strip()


def recipe(example: Example) -> None:
    """A recipe, some of its keys, or a list of passes: every key, type and option is known, every value allowed."""
    values = yaml.safe_load(example.parsed)
    if isinstance(values, list):
        values = {"passes": values}
    read_recipe({"model": {"target": "yours:Model"}, **values}).make_passes()


def commands(example: Example) -> None:
    """Lines after ``$``: commands and options of graphc that there are, benchmarks and examples that there are."""
    for line in re.findall(r"^\$ (.*)$", example.parsed, re.MULTILINE):
        for command in line.split(" && "):
            check(shlex.split(command, comments=True))


def check(words: list[str]) -> None:
    """One command."""
    for word in words:
        if word.startswith("examples/"):
            assert (ROOT / word).exists(), word
    if words[0] == "graphc":
        whole = typer.main.get_command(app)
        with typer.Context(whole, info_name="graphc") as context:
            name, command, rest = whole.resolve_command(context, words[1:])
            command.make_context(name, list(rest), parent=context)
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        path = ROOT / words[2].replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), words[2]


pytest_collect_file = Sybil(
    parsers=[
        CodeBlockParser(language="python", evaluator=Printing()),
        CodeBlockParser(language="text", evaluator=text),
        CodeBlockParser(language="yaml", evaluator=recipe),
        CodeBlockParser(language="console", evaluator=commands),
        SkipParser(),
    ],
    patterns=["*.md", "**/*.md"],
    setup=start,
    teardown=stop,
).pytest()
