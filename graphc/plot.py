"""Drawings, by matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from graphc.errors import GraphError
from graphc.pipeline.search_result import Found
from graphc.pipeline.sensitivity import Sensitivity

SHOWN = 40


def find_plot() -> Callable[[Sensitivity, Path], None]:
    """The function that draws a sensitivity, before any long work.

    Raises:
        GraphError: matplotlib is not installed.
    """
    return partial(_write, _matplotlib(), draw=_bars)


def find_search_plot() -> Callable[[Found, Path], None]:
    """The function that draws the candidates of a search, before any long work.

    Raises:
        GraphError: matplotlib is not installed.
    """
    return partial(_write, _matplotlib(), draw=_points)


def _matplotlib() -> ModuleType:
    try:
        import matplotlib.figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise GraphError("plots need matplotlib", why=str(error), hint="pip install 'graphc[plot]'") from error
    return matplotlib


def _write(matplotlib: Any, found: Any, path: Path, draw: Callable[[Any, Any], None]) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text, for search and for screen readers
        figure = matplotlib.figure.Figure(layout="constrained")
        draw(figure, found)
        temporary = path.with_name(f".{path.name}")
        figure.savefig(temporary, format="svg")
    temporary.replace(path)


def _bars(figure: Any, found: Sensitivity) -> None:
    """Bars of what the metric loses, one row an item, one shade a ratio; the most sensitive on top."""
    rows = sorted(found.rows().items(), key=lambda entry: max(entry[1].values()))[-SHOWN:]
    figure.set_size_inches(9, 1.2 + 0.28 * len(rows))
    axes = figure.subplots()
    for ratio in sorted({ratio for _, row in rows for ratio in row}, reverse=True):
        heights = [row.get(ratio, 0.0) for _, row in rows]
        axes.barh([item for (_, item), _ in rows], heights, color=str(0.9 - 0.7 * ratio), label=f"{ratio:.0%} gone")
    axes.set_xlabel(f"loss of {found.metric} (it is {found.baseline:.4f})")
    axes.legend()


def _points(figure: Any, found: Found) -> None:
    """The first objective by each of the others, or by MACs: candidates, limits, and those that none is better than."""
    first, *others = found.objectives
    others = others or ["macs" if first != "macs" else "params"]
    figure.set_size_inches(6 * len(others), 4.5)
    for axes, other in zip(figure.subplots(1, len(others), squeeze=False)[0], others, strict=True):
        tried = [c for c in found.candidates if {first, other} <= set(c.figures)]
        groups = {
            "above a limit": ("x", "0.6", [c for c in tried if not c.fits]),
            "within the limits": ("o", "0.6", [c for c in tried if c.fits and not c.pareto]),
            "none is better": ("o", "black", [c for c in tried if c.pareto]),
        }
        for label, (marker, colour, group) in groups.items():
            xs, ys = ([c.figures[name] for c in group] for name in (other, first))
            axes.scatter(xs, ys, marker=marker, color=colour, label=label)
        for candidate in found.pareto:
            axes.annotate(str(candidate.number), (candidate.figures[other], candidate.figures[first]))
        if other in found.limits:
            axes.axvline(found.limits[other], color="0.6", linestyle="--")
        axes.set_xlabel(other)
        axes.set_ylabel(found.metric if first == "metric" and found.metric else first)
        axes.legend()
