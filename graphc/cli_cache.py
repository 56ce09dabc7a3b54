"""The command ``cache``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from graphc import view_cache


def add(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def cache(
        folders: Annotated[
            list[Path] | None,
            typer.Argument(metavar="FOLDER...", help="A cache_dir, or the output folder of a compile; out."),
        ] = None,
        prune: Annotated[
            bool, typer.Option("--prune", help="Remove results: all, or those that the options name.")
        ] = False,
        recipe: Annotated[str | None, typer.Option(help="Only of this recipe, as listed.")] = None,
        older_than: Annotated[str | None, typer.Option(help="Only what was not used for so long: 12h, 7d.")] = None,
        max_size: Annotated[str | None, typer.Option(help="Only so much that no more is left: 10GB.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead.")] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    ) -> None:
        """List kept results of passes, or remove some."""
        found = view_cache.asked(folders or [Path("out")], prune, recipe, older_than, max_size)
        if as_json:
            sys.stdout.write(json.dumps([one.to_dict() for one in found], indent=2) + "\n")
        else:
            view_cache.listings(Console(highlight=False), found)
