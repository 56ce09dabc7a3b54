"""What the command line shows of latency tables."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphc.pipeline.tabulate import Tabulated


def tabulated(console: Console, found: Tabulated) -> None:
    """Programs, predicted and measured, and what the table has."""
    table = Table("program", "predicted ms", "measured ms", "blocks", "interpolated")
    for name, (prediction, ms) in found.programs.items():
        own = "" if ms is None else f"{ms:.3f}"
        table.add_row(escape(name), f"{prediction.ms:.3f}", own, str(prediction.blocks), str(prediction.interpolated))
    console.print(table)
    runtime = f"onnxruntime {found.machine['onnxruntime']}, {found.threads} threads, {found.machine['cpu']}"
    told = f"{found.path}: {found.measured} blocks measured, {found.known} known; {runtime}"
    console.print(escape(told), soft_wrap=True)
