"""The command ``bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from graphc import view, view_bench
from graphc.emitters.base import check_writable
from graphc.emitters.staging import staged
from graphc.errors import GraphError
from graphc.pipeline.bench import Wishes, bench
from graphc.pipeline.bench_result import BenchResult
from graphc.pipeline.model import Model
from graphc.pipeline.recipe import Recipe

Read = Callable[[Path], Recipe]
RECIPES = (".yaml", ".yml")
OUT = "-"
"""The name of standard output."""


def add(app: typer.Typer, read: Read) -> None:
    """Add the command; ``read`` reads a recipe."""

    @app.command("bench")
    def bench_command(
        models: Annotated[
            list[Path],
            typer.Argument(metavar="MODEL...", help=".onnx, .pt2, folders, recipes (their models, before any pass)."),
        ],
        batch: Annotated[str | None, typer.Option(help="Batch sizes: 1,8; 1 by default, where it is dynamic.")] = None,
        dims: Annotated[
            list[str] | None, typer.Option("--dims", "--dim", help="Sizes of another dynamic dim: tokens=32,128.")
        ] = None,
        threads: Annotated[str, typer.Option(help="Threads within one op: 1,2.")] = "1",
        device: Annotated[str, typer.Option(help="cpu, cuda or both: cpu,cuda.")] = "cpu",
        backend: Annotated[
            str | None, typer.Option(help="onnxruntime, eager, inductor (torch.compile), or some: eager,inductor.")
        ] = None,
        warmup: Annotated[int | None, typer.Option(help="Untimed runs; until times are steady by default.")] = None,
        repeat: Annotated[int, typer.Option(help="Timed runs of each.")] = 50,
        memory: Annotated[bool, typer.Option(help="Load each in a process of its own: time and memory.")] = True,
        profile: Annotated[
            bool, typer.Option("--profile", help="Time each op, beside what this machine can do.")
        ] = False,
        json_file: Annotated[
            str | None, typer.Option("--json", metavar="FILE", help="Write JSON; - prints it.")
        ] = None,
        csv_file: Annotated[str | None, typer.Option("--csv", metavar="FILE", help="Write CSV; - prints it.")] = None,
        markdown_file: Annotated[
            str | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown; - prints it.")
        ] = None,
        seed: Annotated[int, typer.Option(help="Of made inputs and of intervals.")] = 0,
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    ) -> None:
        """Time several artifacts in turns, compare them with the first, and show what bounds their ops."""
        files = {".json": json_file, ".csv": csv_file, ".md": markdown_file}
        for suffix, name in files.items():
            _check_file(suffix, name)
        wishes = Wishes(
            backends=tuple(backend.split(",")) if backend else (),
            devices=tuple(device.split(",")),
            threads=view.whole_numbers(threads, "--threads", "1,2"),
            sizes=_sizes(batch, dims or []),
            warmup=warmup,
            repeat=repeat,
            memory=memory,
            profile=profile,
            seed=seed,
        )
        console = Console(stderr=OUT in files.values(), highlight=False)
        with view.Progress(console) as progress:
            named = [Model(path, read(path) if path.suffix in RECIPES and path.is_file() else None) for path in models]
            found = bench(named, wishes, lambda *now: progress("progress", now))
        view_bench.benched(console, found)
        for suffix, name in files.items():
            if name is not None:
                _write(name, _text(found, suffix))


def _text(found: BenchResult, suffix: str) -> str:
    """What a file of this suffix has."""
    if suffix == ".json":
        return json.dumps(found.to_dict(), indent=2) + "\n"
    return found.to_csv() if suffix == ".csv" else found.to_markdown()


def _sizes(batch: str | None, dims: Sequence[str]) -> dict[str, tuple[int, ...]]:
    own = {} if batch is None else {"batch": view.whole_numbers(batch, "--batch", "1,8")}
    return own | dict(view.sizes(text) for text in dims)


def _check_file(suffix: str, name: str | None) -> None:
    """See that a file can be written, and is not one of the artifacts.

    Raises:
        GraphError: it cannot, or has another suffix.
    """
    if name in (None, OUT):
        return
    option = {".md": "--markdown"}.get(suffix, f"--{suffix[1:]}")
    if Path(str(name)).suffix != suffix:
        raise GraphError(
            f"{option} writes a {suffix} file, and {name!r} is none", where=option, hint=f"{option} bench{suffix}"
        )
    check_writable(str(name))


def _write(name: str, text: str) -> None:
    """Whole or not at all."""
    if name == OUT:
        sys.stdout.write(text)
        return
    with staged(Path(name)) as inside:
        inside.write_text(text, encoding="utf-8")
