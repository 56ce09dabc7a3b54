"""Drawings, by matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphc.errors import GraphError
from graphc.pipeline.sensitivity import Sensitivity

SHOWN = 40


def find_plot() -> Callable[[Sensitivity, Path], None]:
    """The function that draws a sensitivity, before any long work.

    Raises:
        GraphError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise GraphError("plots need matplotlib", why=str(error), hint="pip install 'graphc[plot]'") from error

    def draw(found: Sensitivity, path: Path) -> None:
        with rc_context({"svg.fonttype": "none"}):  # text stays text, for search and for screen readers
            _draw(found, path, Figure)

    return draw


def _draw(found: Sensitivity, path: Path, figure_of: Any) -> None:
    """Bars of what the metric loses, one row an item, one shade a ratio; the most sensitive on top."""
    rows = sorted(found.rows().items(), key=lambda entry: max(entry[1].values()))[-SHOWN:]
    figure = figure_of(figsize=(9, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for ratio in sorted({ratio for _, row in rows for ratio in row}, reverse=True):
        heights = [row.get(ratio, 0.0) for _, row in rows]
        axes.barh([item for (_, item), _ in rows], heights, color=str(0.9 - 0.7 * ratio), label=f"{ratio:.0%} gone")
    axes.set_xlabel(f"loss of {found.metric} (it is {found.baseline:.4f})")
    axes.legend()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="svg")
    temporary.replace(path)
