"""The charts of a report, from its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.page.rows import Bar, Chart, Dots, Row, Span, Tick
from graphc.page.words import change, count, families, interval, memory, milliseconds, number, times

AMOUNTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "macs": ("Multiply-accumulates", count),
    "params": ("Parameters", count),
    "bytes": ("Bytes of tensors", memory),
}
"""What a report has after each pass: its title, and how its numbers are written."""
MOST = 14
"""Rows of a chart; the rest is in a table."""
BEYOND = 2.0
"""A run that takes so many times the 90th percentile is beyond the end of the scale."""


def waterfall(report: Mapping[str, Any], key: str) -> Chart:
    """What each pass takes away, from the model as captured to what is left."""
    title, write = AMOUNTS[key]
    first, last = report["before"][key], report["after"][key]
    rows = [Row("as captured", write(first), (Bar(0, first, "before"),))]
    now = first
    for step in report["passes"]:
        then, now = now, step[key]
        kind = "gone" if now <= then else "grown"
        marks = (Bar(0, min(then, now), "ghost"), *([Bar(now, then, kind)] if now != then else ()))
        rows.append(Row(step["name"], change(then, now, write), marks))
    rows.append(Row("compiled", write(last), (Bar(0, last, "after"),)))
    highest = max([first, last, *(step[key] for step in report["passes"])])
    told = "; ".join(f"{row.label}: {row.figure}" for row in rows)
    return Chart(f"{title}, pass by pass", told, rows, 0, highest or 1, write)


def timeline(latencies: Sequence[tuple[str, Mapping[str, Any]]]) -> Chart:
    """The time after each of some steps, as a share of that of the model as captured, with its 95 % interval."""
    rows = [
        Row(
            name,
            interval(own),
            (Span(own["low"], own["high"], "interval"), Dots((own["ratio"],), "point")),
        )
        for name, own in latencies
    ]
    highest = max(1.1, 1.05 * max(own["high"] for _, own in latencies))
    told = "; ".join(f"{row.label}: {row.figure}" for row in rows)
    title = "Time of one run against the captured model's"
    return Chart(title, told, rows, 0, highest, times, reference=1.0)


def distribution(name: str, latency: Mapping[str, Any]) -> Chart | None:
    """Every timed run before and after; None where a report has no runs."""
    pairs = (("as captured", "before", "before_samples_ms"), ("compiled", "after", "after_samples_ms"))
    sides = [(label, kind, latency.get(key, ())) for label, kind, key in pairs]
    if not all(samples for *_, samples in sides):
        return None
    end = BEYOND * max(float(np.percentile(samples, 90)) for *_, samples in sides)
    high = min(end, 1.05 * max(max(samples) for *_, samples in sides))
    rows, notes = [], []
    for label, kind, samples in sides:
        low, first, middle, third, ninth = (float(np.percentile(samples, q)) for q in (0, 25, 50, 75, 90))
        seen = tuple(value for value in samples if value <= high)
        marks = (Span(low, max(seen)), Bar(first, third, "box"), Dots(seen, f"{kind} dot"), Tick(middle))
        rows.append(Row(label, milliseconds(middle), marks))
        beyond = len(samples) - len(seen)
        slow = f", and {beyond} slower than {milliseconds(high)} not drawn" if beyond else ""
        notes.append(f"{label}: median {milliseconds(middle)}, 90th percentile {milliseconds(ninth)}{slow}")
    told = f"{len(sides[0][2])} runs each, in turns; {'; '.join(notes)}"
    return Chart(f"Latency of {name} in {latency['backend']}, run by run", told, rows, 0, high, milliseconds, thick=44)


def work(rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Multiply-accumulates of modules before and after, those of one form as one; None if there are none."""
    table = {row["module"] or "(root)": row for row in rows}
    sums = [
        (f.text, *(sum(table[name][side] for name in f.names) for side in ("before", "after"))) for f in families(table)
    ]
    most = sorted(sums, key=lambda row: -max(row[1:]))[:MOST]
    if not most:
        return None
    kept = [row for row in sums if row in most]
    drawn = [
        Row(text, f"{count(old)} ⇒ {count(new)}" if old != new else count(new), _beside(old, new))
        for text, old, new in kept
    ]
    told = "; ".join(f"{row.label}: {row.figure}" for row in drawn)
    highest = max(max(old, new) for _, old, new in kept)
    return Chart("Multiply-accumulates by module, before and after", told, drawn, 0, highest or 1, count)


def _beside(old: float, new: float) -> tuple[Bar, ...]:
    return (Bar(0, old, "before"), Bar(0, new, "after")) if old >= new else (Bar(0, new, "grown"), Bar(0, old, "after"))


def metrics(name: str, values: Sequence[tuple[str, float]]) -> Chart:
    """A metric after each step at which it was taken; a scale that differences can be seen on."""
    numbers = [value for _, value in values]
    within = all(0 <= value <= 1 for value in numbers)
    margin = 0.1 * (max(numbers) - min(numbers)) or 0.05 * abs(numbers[0]) or 0.05
    low, high = min(numbers) - margin, max(numbers) + margin
    ends = (max(0.0, low), min(1.0, high)) if within else (low, high)
    rows = [
        Row(label, f"{value:.4f}", (Dots((value,), "before dot" if i == 0 else "point"),))
        for i, (label, value) in enumerate(values)
    ]
    told = "; ".join(f"{row.label}: {row.figure}" for row in rows)
    return Chart(f"{name}, step by step", told, rows, *ends, number, reference=numbers[0])
