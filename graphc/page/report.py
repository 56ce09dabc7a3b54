"""The page of a report: what a compile did, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from graphc.coupling.flow import analyze
from graphc.measure.report import Step
from graphc.page import charts
from graphc.page.coupling import diagram_of
from graphc.page.diagram import Diagram
from graphc.page.rows import Chart
from graphc.page.svg import both, markup
from graphc.page.template import fill
from graphc.page.words import Family, change, families, interval, milliseconds, share

FILE = "report.html"
TOLD = ("type", "options", "says", "latency", "cached", "metric", "training")
"""Facts of a pass that have a place of their own."""
SMALL, DRAWN = 16, 3
"""A report draws an axis of no more boxes, and no more axes of one pass."""
MOST = 12
"""Rows of a table that are shown at once."""
HALF, WHOLE = 440.0, 920.0
"""Widths of charts in pixels."""

Report = Mapping[str, Any]


def report_page(report: Report, steps: Sequence[Step] = ()) -> str:
    """A report as one HTML file.

    Args:
        report: as report.json has it.
        steps: its passes with their programs, for drawings of what they cut; without them nothing is drawn.
    """
    report = json.loads(json.dumps(report))  # as report.json has it: a page is of nothing else
    for step in report["passes"]:
        step.setdefault("facts", {})
    timed = [(step["name"], own) for step in report["passes"] if (own := step["facts"].get("latency")) is not None]
    artifacts = [(a["name"], a["latency"]) for a in report["artifacts"] if "latency" in a]
    spread = [
        charts.distribution(name, own) for name, own in [*(("the program", own) for _, own in timed[-1:]), *artifacts]
    ]
    values = {
        "report": report,
        "most": MOST,
        "title": report["name"] or "a model",
        "cards": _cards(report, timed, artifacts),
        "waterfalls": [_figure(f"fall-{key}", charts.waterfall(report, key), HALF) for key in charts.AMOUNTS],
        "passes": [_pass(report, i, steps[i] if steps else None) for i in range(len(report["passes"]))],
        "timeline": _figure("time", charts.timeline([*timed, *artifacts]), HALF) if timed or artifacts else None,
        "spread": [_figure(f"spread-{i}", chart, WHOLE) for i, chart in enumerate(spread) if chart is not None],
        "metrics": _metrics(report),
        "work": _figure("work", made, WHOLE) if (made := charts.work(report["work"])) is not None else None,
        "pins": pinned(report["hindrances"]["pins"]),
        "warnings": _warnings(report),
        "cautions": _cautions(report["hindrances"]),
    }
    return fill("report.html", values)


def _figure(key: str, chart: Chart, width: float) -> dict[str, Any]:
    return {"title": chart.title, "drawing": both(key, width, chart.draw), "text": chart.description}


def _cards(report: Report, timed: Sequence[tuple[str, Any]], artifacts: Sequence[tuple[str, Any]]) -> list[Any]:
    """What everybody wants to know first: amounts, the time of an artifact or of the program, the metric."""
    before, after = report["before"], report["after"]
    cards = []
    for key, (title, write) in charts.AMOUNTS.items():
        left = after[key] / before[key] if before[key] else None
        note = f"{share(left)} of {write(before[key])}" if left is not None else ""
        cards.append({"title": title, "value": write(after[key]), "note": note, "part": left})
    for name, own in (artifacts or timed)[:1]:
        title = f"Median latency of {name if artifacts else 'the program'}"
        note = f"was {milliseconds(own['before_ms'])}, {interval(own)}"
        cards.append({"title": title, "value": milliseconds(own["after_ms"]), "note": note, "part": own["ratio"]})
    if "metric" in report:
        note = f"was {before['metric']:.4f}"
        name, value = str(report["metric"]["name"]), f"{after['metric']:.4f}"
        cards.append({"title": name, "value": value, "note": note, "part": report["metric"]["retained"]})
    return cards


def _metrics(report: Report) -> dict[str, Any] | None:
    if "metric" not in report:
        return None
    taken = [(step["name"], step["facts"]["metric"]) for step in report["passes"] if "metric" in step["facts"]]
    values = [("as captured", report["before"]["metric"]), *taken]
    values += [("compiled", report["after"]["metric"])] if not taken else []
    return _figure("metric", charts.metrics(str(report["metric"]["name"]), values), WHOLE)


def _pass(report: Report, index: int, step: Step | None) -> dict[str, Any]:
    """One pass: figures before and after, changed layers, axes that were cut, options."""
    told = report["passes"][index]
    earlier = report["passes"][index - 1] if index else report["before"]
    facts = told["facts"]
    written = report["recipe"].get("passes") or []
    wanted = dict(written[index]) if len(written) == len(report["passes"]) else facts.get("options", {})
    return {
        "name": told["name"],
        "type": facts.get("type", ""),
        "seconds": told["seconds"],
        "cached": facts.get("cached"),
        "says": facts.get("says", ()),
        "figures": [
            {"name": title, "before": write(earlier[k]), "after": write(told[k]), "change": _part(earlier[k], told[k])}
            for k, (title, write) in charts.AMOUNTS.items()
        ],
        "latency": facts.get("latency"),
        "metric": facts.get("metric"),
        "training": facts.get("training"),
        "changes": folded(told["changes"]),
        "cuts": _cuts(told["cuts"]),
        "drawings": _drawings(index, step, told["cuts"]) if step is not None else [],
        "wanted": {name: value for name, value in wanted.items() if name not in ("type", "name")},
        "options": facts.get("options", {}),
        "more": {k: v for k, v in facts.items() if k not in TOLD},
    }


def _part(before: float, after: float) -> str:
    return change(0, (after - before) / before, share) if before and after != before else "no change"


def folded(changes: Sequence[str]) -> list[tuple[list[Family], str]]:
    """Changes of layers: what happened once, with all layers that it happened to."""
    groups: dict[str, list[str]] = {}
    for text in changes:
        module, _, what = text.partition(": ")
        groups.setdefault(what, []).append(module)
    return [(families(modules), what) for what, modules in groups.items()]


def pinned(pins: Mapping[str, Sequence[str]]) -> list[tuple[str, list[str]]]:
    """Reasons that are alike as one, each with the axes that it pins."""
    found = families(pins)
    return [(own.text, [f.text for f in families(a for why in own.names for a in pins[why])]) for own in found]


def _cuts(cuts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Axes that became smaller, those of one form as one, with their sizes."""
    known = {cut["name"]: cut for cut in cuts}
    return [
        {
            "axis": family.text,
            "count": family.count,
            **{side: _range([known[name][side] for name in family.names]) for side in ("before", "after")},
        }
        for family in families(known)
    ]


def _range(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"


def _drawings(index: int, step: Step, cuts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first axis of each form that was cut, as far as its drawing is small."""
    analysis = analyze(step.before)
    axes = {axis.name: axis for axis in analysis.axes}
    first = [axes[family.names[0]] for family in families(cut["name"] for cut in cuts)]
    small = [made for axis in first if len((made := diagram_of(analysis, axis)).boxes) <= SMALL][:DRAWN]
    return [_drawing(f"pass-{index}-axis-{i}", made) for i, made in enumerate(small)]


def _drawing(key: str, made: Diagram) -> dict[str, Any]:
    return {"title": made.title, "text": made.description, "drawing": markup(made.draw(key))}


def _warnings(report: Report) -> list[str]:
    """What a reader must know of the artifacts."""
    return [f"{a['name']}: {why}" for a in report["artifacts"] for why in a.get("latency", {}).get("warnings", ())]


def _cautions(hindrances: Mapping[str, Any]) -> list[str]:
    """What one who cuts more must know: ops without a rule, numbers that were made from a size."""
    found = [family.text for family in families(hindrances["warnings"])]
    for op, places in hindrances["without_rule"].items():
        found.append(f"no rule for {op}, so it pins what it meets, at {', '.join(f.text for f in families(places))}")
    return found
