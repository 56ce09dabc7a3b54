"""The page of a search: its candidates, for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphc.page.scatter import Axis, Point, Scatter
from graphc.page.svg import both
from graphc.page.template import fill
from graphc.page.words import count, memory, milliseconds, share

FILE = "search.html"
FIGURES = ("metric", "latency_ms", "macs", "params", "bytes")
NAMES = {"latency_ms": "latency", "macs": "multiply-accumulates", "params": "parameters", "bytes": "bytes of tensors"}
WRITERS: Mapping[str, Callable[[float], str]] = {
    "metric": lambda value: f"{value:.4g}",
    "latency_ms": milliseconds,
    "macs": count,
    "params": count,
    "bytes": memory,
}
WIDTH = 920.0

Found = Mapping[str, Any]


def search_page(found: Found, recipe: Mapping[str, Any], environment: Mapping[str, Any], name: str) -> str:
    """The result of a search as one HTML file.

    Args:
        found: as search.json has it.
        recipe: of the search, as plain data.
        environment: where it ran.
        name: what the search is called.
    """
    found = json.loads(json.dumps(found))
    candidates = found["candidates"]
    last = list(found["objectives"])[-1]
    best = sorted((c for c in candidates if c["pareto"]), key=lambda c: c["figures"][last])
    known = [key for key in FIGURES if key in found["baseline"]]
    values = {
        "title": name,
        "found": found,
        "recipe": recipe,
        "environment": environment,
        "heads": [_name(found, key) for key in known],
        "baseline": [WRITERS[key](found["baseline"][key]) for key in known],
        "best": [_row(found, c, known) for c in best],
        "others": [_row(found, c, known) for c in candidates if not c["pareto"] and not c["refused"]],
        "refused": [c for c in candidates if c["refused"]],
        "within": sum(not c["refused"] and all(m <= 0 for m in c["misses"].values()) for c in candidates),
        "limits": [(_name(found, key), WRITERS[key](value)) for key, value in found["limits"].items()],
        "objectives": [(_name(found, key), up) for key, up in found["objectives"].items()],
        "charts": [_chart(found, first, other) for first, other in _pairs(found)],
    }
    return fill("search.html", values)


def _name(found: Found, key: str) -> str:
    return str(found["metric"] or key) if key == "metric" else NAMES[key]


def _row(found: Found, candidate: Found, known: Sequence[str]) -> dict[str, Any]:
    figures, limits = candidate["figures"], candidate["misses"]
    cells = []
    for key in known:
        value, base = figures.get(key), found["baseline"][key]
        part = share(value / base) if value is not None and base and key != "metric" else ""
        text = WRITERS[key](value) if value is not None else "not taken"
        cells.append({"text": text, "part": part, "misses": limits.get(key, 0) > 0})
    return {**candidate, "cells": cells}


def _pairs(found: Found) -> list[tuple[str, str]]:
    """The first objective by each of the others, or by MACs."""
    first, *others = found["objectives"]
    return [(first, other) for other in others or ["macs" if first != "macs" else "params"]]


def _chart(found: Found, first: str, other: str) -> dict[str, Any]:
    """Candidates that have both figures, and the model as captured."""
    tried = [c for c in found["candidates"] if {first, other} <= set(c["figures"])]
    points = [
        Point(c["figures"][other], c["figures"][first], _kind(c), str(c["number"] if c["pareto"] else ""))
        for c in tried
    ]
    base = found["baseline"]
    if {first, other} <= set(base):
        points.append(Point(base[other], base[first], "model", "as captured"))
    names = _name(found, first), _name(found, other)
    told = "; ".join(
        f"candidate {c['number']}: {names[0]} {WRITERS[first](c['figures'][first])},"
        f" {names[1]} {WRITERS[other](c['figures'][other])}"
        for c in tried
        if c["pareto"]
    )
    title = f"{names[0]} by {names[1]}"
    axes = Axis(names[1], WRITERS[other]), Axis(names[0], WRITERS[first])
    text = f"{len(tried)} candidates. None is better than {told}"
    front = _front([c for c in tried if c["pareto"]], found["objectives"], first, other)
    made = Scatter(title, text, *axes, points, found["limits"].get(other), front)
    drawing = both(f"scatter-{other}", WIDTH, made.draw) if points else ""
    return {"title": title, "drawing": drawing, "text": made.description}


def _front(best: Sequence[Found], up: Mapping[str, bool], first: str, other: str) -> list[tuple[float, float]]:
    """Of the best candidates those that none is better than in two figures alone, from the least of the other."""
    signs = [-1 if up.get(key) else 1 for key in (other, first)]
    rows = sorted((signs[0] * c["figures"][other], signs[1] * c["figures"][first]) for c in best)
    kept: list[tuple[float, float]] = []
    for row in rows:
        if not kept or row[1] < kept[-1][1]:
            kept.append(row)
    return sorted((signs[0] * x, signs[1] * y) for x, y in kept)


def _kind(candidate: Found) -> str:
    if candidate["pareto"]:
        return "best"
    return "fits" if all(miss <= 0 for miss in candidate["misses"].values()) else "misses"
