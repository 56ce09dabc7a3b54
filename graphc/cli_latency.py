"""The command ``latency-table``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from graphc import view, view_latency
from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.pipeline.model import Model
from graphc.pipeline.recipe import Recipe
from graphc.pipeline.tabulate import tabulate

Read = Callable[[Path], Recipe]


def add(app: typer.Typer, read: Read) -> None:
    """Add the command; ``read`` reads a recipe."""

    @app.command("latency-table")
    def latency_table(
        models: Annotated[
            list[Path], typer.Argument(metavar="MODEL...", help="Recipes (their models), .pt2, or folders.")
        ],
        output: Annotated[
            Path, typer.Option("--output", "-o", help="The table; what it has is not measured again.")
        ] = Path("latency_table.json"),
        dim: Annotated[list[str] | None, typer.Option(help="Size of a dynamic dim: batch=1, sequence=128.")] = None,
        threads: Annotated[int, typer.Option(min=1, help="Threads within one op.")] = 1,
        samples: Annotated[int, typer.Option(min=0, help="Other sizes to measure each kind of block at.")] = 16,
        whole: Annotated[bool, typer.Option(help="Also run the models as a whole, to scale by.")] = True,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead.")] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    ) -> None:
        """Measure ops and fused blocks on this machine, at many sizes, to predict the latency of models by."""
        console = Console(stderr=as_json, highlight=False)
        dims = dict(view.size(text) for text in dim or [])
        with view.Progress(console) as progress:
            programs = {}
            for path in models:
                progress("reading", path)
                programs[str(path)] = _program(path, read)
            found = tabulate(
                programs,
                output,
                dims=dims,
                threads=threads,
                samples=samples,
                whole=whole,
                progress=lambda *now: progress("progress", now),
            )
        if as_json:
            sys.stdout.write(json.dumps(found.to_dict(), indent=2) + "\n")
        else:
            view_latency.tabulated(console, found)


def _program(path: Path, read: Read) -> Program:
    """What a path is of: a recipe's model, before its passes, or an artifact."""
    model = Model(path, read(path) if path.suffix in (".yaml", ".yml") else None)
    if model.is_onnx:
        hint = "give the recipe that made it, or a .pt2 or a folder of the same program"
        raise GraphError("an .onnx file has no torch graph to take apart", where=str(path), hint=hint)
    return model.program()
