"""What people read of a benchmark: one table for each setting, profiles, and warnings."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphc.pipeline.bench_result import HEADS, OP_HEADS, BenchResult, cells, op_cells

LOADING = HEADS.index("load ms")
"""Where the columns about loading begin, which have a table of their own: both together are wider than a terminal."""


def benched(console: Console, found: BenchResult) -> None:
    """Everything that was found."""
    for setting, rows in found.settings():
        lines = [cells(row) for row in rows]
        _print(console, str(setting), HEADS[:LOADING], [line[:LOADING] for line in lines])
        if any(row.alone.load_ms is not None for row in rows):
            _print(console, "", (HEADS[0], *HEADS[LOADING:]), [[line[0], *line[LOADING:]] for line in lines])
        for row in rows:
            for text in row.warnings:
                who = f"{row.name} ({row.measurement.backend})"
                console.print(f"[yellow]{escape(who)}[/yellow]: {escape(text)}", soft_wrap=True)
    for one in found.profiles:
        _print(console, one.says(), OP_HEADS, [op_cells(op, limit) for op, limit in one.top()])
    for text in found.skipped:
        console.print(f"[yellow]left out[/yellow] {escape(text)}", soft_wrap=True)


def _print(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for i, head in enumerate(heads):
        left = i == 0 or head in ("backend", "op", "bound by")
        table.add_column(head, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    if title:
        console.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(table)
