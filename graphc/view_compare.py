"""What people read of a comparison: each value's deviation in graph order, the worst steps marked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphc.measure.deviation import Deviation
from graphc.pipeline.comparison import Comparison

MARKED = 5
"""Steps that are marked in a table of all values."""
SCALED = "~"


def deviations(console: Console, found: Comparison, top: int | None = None, by_module: bool = False) -> None:
    """The table of a comparison.

    Args:
        found: what to show.
        top: show the worst steps alone, so many; None shows all values, and marks five.
        by_module: one line for each stretch of the graph in one module.
    """
    all_ = found.deviations
    shown = all_.by_module() if by_module else all_
    worst = {value.name for value in shown.worst(MARKED if top is None else top)}
    console.print(
        f"{escape(found.other)} against {escape(found.reference)}, on {escape(found.data)}; dB are signal to noise "
        "(SQNR): of the value, lost against what it reads, and of the error that the step itself adds",
        soft_wrap=True,
    )
    table = Table("", "value", "module", "op", box=None, pad_edge=False)
    for title in ("SQNR", "drop", "own", "max error"):
        table.add_column(title, justify="right")
    for column in table.columns:
        column.overflow = "fold"
    same = _unchanged(shown.values)
    values = [v for v in shown.values if (v.name in worst if top is not None else v.name not in same)]
    for exact, group in groupby(values, lambda value: value.sqnr_db == math.inf):
        _rows(table, list(group), exact, worst)
    for value in all_.outputs:
        table.add_row("", f"[bold]{escape(value.name)}[/bold]", "", "output", *_figures(value)[:1], "", "", _max(value))
    console.print(table)
    for line in _notes(found, len(same) if top is None else 0):
        console.print(escape(line), soft_wrap=True)


def _unchanged(values: Sequence[Deviation]) -> set[str]:
    """Names of values with the error of the one that they read, as a view or a transposition has."""
    known = {value.name: value for value in values}
    reads = {value.name: [known[name] for name in value.reads if name in known] for value in values}
    return {
        value.name
        for value in values
        if value.sqnr_db < math.inf
        and len(reads[value.name]) == len(value.reads) == 1
        and math.isclose(value.sqnr_db, reads[value.name][0].sqnr_db, abs_tol=1e-6)
        and value.max_abs == reads[value.name][0].max_abs
    }


def _rows(table: Table, values: Sequence[Deviation], exact: bool, worst: set[str]) -> None:
    if exact and len(values) > 1:
        table.add_row("", f"{values[0].name} to {values[-1].name}", f"{len(values)} values", "", "exact", "", "", "0")
        return
    for value in values:
        mark, style = ("*", "bold red") if value.name in worst else ("", "")
        name = value.name if value.twin == value.name else f"{value.name} ({value.twin})"
        words = (escape(text) for text in (name, value.module, value.op))
        table.add_row(mark, *words, *_figures(value), _max(value), style=style)


def _figures(value: Deviation) -> list[str]:
    sqnr = "exact" if value.sqnr_db == math.inf else f"{value.sqnr_db:.1f}"
    drop = "" if math.isinf(value.drop_db) else f"{value.drop_db:.1f}"
    return [f"{SCALED} {sqnr}" if value.rescaled else sqnr, drop, _own(value)]


def _own(value: Deviation) -> str:
    return "" if value.added_db == math.inf else f"{value.added_db:.1f}"


def _max(value: Deviation) -> str:
    return "" if value.rescaled else f"{value.max_abs:.2g}"


def _notes(found: Comparison, left_out: int) -> Iterator[str]:
    values = found.deviations
    if left_out:
        yield f"left out: {left_out} that only move or keep what they read (--json has them)"
    if found.outputs_only:
        yield "outputs only: what an .onnx file computes on the way has no names in common with a program"
    scaled = sum(value.rescaled for value in values.values)
    if scaled:
        yield f"{SCALED} rescaled on purpose: {scaled}, whose dB are those after a factor for each of their units"
    for name, alone in ((f"{found.reference} only", values.only_reference), (f"{found.other} only", values.only_other)):
        if alone and not found.outputs_only:
            shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
            yield f"values of {name}: {len(alone)} ({shown})"
