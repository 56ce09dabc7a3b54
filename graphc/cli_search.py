"""The command ``search``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from graphc import view_search
from graphc.pipeline.recipe import Recipe
from graphc.pipeline.search import search
from graphc.plot import find_search_plot

Read = Callable[[Path], Recipe]


def add(app: typer.Typer, read: Read) -> None:
    """Add the command; ``read`` reads a recipe."""

    @app.command("search")
    def search_command(
        recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file with a section search.")],
        output_dir: Annotated[
            Path, typer.Option("--output-dir", "-o", help="Folder of the study, search.html, search.json and recipes.")
        ] = Path("out"),
        device: Annotated[str, typer.Option(help="Where passes that train run: cpu or cuda.")] = "cpu",
        trials: Annotated[int | None, typer.Option(min=1, help="Candidates in all, not as many as it says.")] = None,
        storage: Annotated[str | None, typer.Option(help="URL of a database of Optuna's, not the one it says.")] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on, also beside processes that still run.")] = False,
        plot: Annotated[bool, typer.Option(help="Draw search.svg (needs matplotlib).")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead.")] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    ) -> None:
        """Try candidates of a recipe's options under constraints; the best become recipes of their own."""
        console = Console(stderr=as_json, highlight=False)
        drawing = find_search_plot() if plot else None
        with view_search.Progress(console) as progress:
            progress("reading", recipe)
            made = read(recipe).with_search(trials=trials, storage=storage)
            found = search(made, output_dir, device, resume, recipe.parent, progress)
        if drawing is not None:
            drawing(found, output_dir / "search.svg")
        if as_json:
            sys.stdout.write(json.dumps(found.to_dict(), indent=2) + "\n")
        else:
            view_search.candidates(console, found, output_dir)
