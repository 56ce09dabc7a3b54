"""What people read of a search: each candidate as it is tried, and a table of those that none is better than."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphc import view
from graphc.pipeline.search_result import Candidate, Found

SHOWN = 6
"""The table shows choices if there are no more than this; the recipes have all."""
FORMATS: Mapping[str, str] = {"metric": ".4f", "latency_ms": ".3f"}


class Progress(view.Progress):
    """Says which candidate is tried, and what came of it."""

    def __call__(self, event: str, about: Any) -> None:
        """One event of a search."""
        if event == "trying":
            self.status.update(f"trying candidate {about[0]} of {about[1]}")
        elif event == "waiting":
            self.status.update(f"waiting for {about} of other processes")
        elif event == "tried":
            what = f"[yellow]refused[/yellow] {escape(about.refused)}" if about.refused else _figures(about.figures)
            self.console.print(f"  [bold]{about.number}[/bold]  {what}", soft_wrap=True)
        else:
            super().__call__(event, about)


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_figure(name, value)}" for name, value in figures.items())


def _figure(name: str, value: float) -> str:
    return format(value, FORMATS.get(name, ",.0f"))


def candidates(console: Console, found: Found, folder: Path) -> None:
    """The candidates that none is better than, beside the model as captured."""
    best = found.pareto
    names = [name for name in ("metric", "latency_ms", "macs", "params", "bytes") if name in found.baseline]
    few = len(best[0].choices) <= SHOWN
    heads = [found.metric if name == "metric" and found.metric else name for name in names]
    table = Table("recipe", *map(escape, heads), *(["choices"] if few else []), box=None)
    table.add_row("as it is", *(_figure(name, found.baseline[name]) for name in names))
    for candidate in best:
        row = [candidate.recipe, *(_beside(candidate, found, name) for name in names)]
        chosen = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in candidate.choices.items())
        table.add_row(*row, *([escape(chosen)] if few else []))
    console.print(table)
    count = len(found.candidates)
    within = sum(candidate.fits for candidate in found.candidates)
    console.print(f"{count} candidates tried, {within} within the constraints, {len(best)} that none is better than")
    console.print(f"written to {escape(str(folder))}: search.html, search.json, {len(best)} recipes", soft_wrap=True)


def _beside(candidate: Candidate, found: Found, name: str) -> str:
    """A figure, and what share of the model's own that is."""
    text = _figure(name, candidate.figures[name])
    return text if name == "metric" else f"{text} ({candidate.figures[name] / found.baseline[name]:.1%})"
