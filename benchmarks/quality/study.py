"""A study: cells, each kept as soon as it is done, so that an interrupted run goes on; their table; its claims."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import tables

Cell = TypeVar("Cell", bound=Any)
Outcome = TypeVar("Outcome", bound=Any)


def outcomes(
    cells: Iterable[Cell],
    run: Callable[[Cell], Outcome],
    kinds: tuple[type[Cell], type[Outcome]],
    file: Path,
    jobs: int,
    console: Console,
) -> dict[Cell, Outcome]:
    """What comes of each cell: read from the file if it is there, else run, and added to the file.

    Args:
        cells: frozen dataclasses of plain values.
        run: a function that other processes can import; gives a dataclass of plain values.
        kinds: the two dataclasses.
        file: one JSON ``[cell, outcome]`` a line.
        jobs: processes.
        console: shows how many are done.
    """
    cell, outcome = kinds
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = {cell(**c): outcome(**o) for c, o in map(json.loads, lines)}
    todo = [one for one in cells if one not in found]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool, file.open("a", encoding="utf-8") as out:
        results = pool.map(run, todo)
        for one, came in zip(todo, track(results, "cells", len(todo), console=console), strict=True):
            found[one] = came
            out.write(json.dumps([asdict(one), asdict(came)]) + "\n")
            out.flush()
    return found


def conclude(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    claims: Mapping[str, bool],
    out: Path,
    console: Console,
) -> int:
    """Print and write the table with its notes and claims; 1 if a claim does not hold."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    said = [*notes, *(f"{claim}: {'holds' if good else 'DOES NOT HOLD'}" for claim, good in claims.items())]
    for note in said:
        console.print(note, markup=False)
    tables.write(title, columns, rows, said, out)
    return 0 if all(claims.values()) else 1
