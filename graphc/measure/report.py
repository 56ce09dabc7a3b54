"""The report of a compilation: one JSON-able document, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from graphc.coupling.explain import hindrances
from graphc.coupling.flow import analyze
from graphc.emitters.staging import staged
from graphc.ir.inputs import inputs_of
from graphc.ir.program import Program
from graphc.measure.cost import changes, cost
from graphc.measure.environment import environment
from graphc.measure.fidelity import compare_tensors, shared_outputs
from graphc.measure.structure import cuts, works


@dataclass(frozen=True)
class Step:
    """One pass that ran.

    Attributes:
        name: in the recipe.
        seconds: wall time.
        before, after: the programs around it.
        facts: what the pass itself has to say (scores, losses); JSON-able.
    """

    name: str
    seconds: float
    before: Program
    after: Program
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Name, seconds, cost afterwards, changed modules, axes that were cut, facts."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            **cost(self.after).to_dict(),
            "changes": [str(change) for change in changes(self.before, self.after)],
            "cuts": [cut.to_dict() for cut in cuts(self.before, self.after)],
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def report(
    before: Program,
    after: Program,
    *,
    name: str = "",
    recipe: Mapping[str, Any] | None = None,
    bench: Mapping[str, Any] | None = None,
    steps: Sequence[Step] = (),
    artifacts: Sequence[Mapping[str, Any]] = (),
    p50_ms: tuple[float, float] | None = None,
    metric: tuple[str, float, float] | None = None,
) -> dict[str, Any]:
    """Assemble the report of a compilation.

    Args:
        before, after: the captured and the compiled program.
        name: what the compile is called.
        recipe: as validated.
        bench: how latency was measured, if it was.
        steps: the passes that ran, in order.
        artifacts: what was written, as plain data.
        p50_ms: median latency of both programs in milliseconds, if it was measured.
        metric: a name, and its value for both programs, if it was taken.
    """
    sides: dict[str, dict[str, Any]] = {"before": {**cost(before).to_dict()}, "after": {**cost(after).to_dict()}}
    if p50_ms is not None:
        sides["before"]["p50_ms"], sides["after"]["p50_ms"] = p50_ms
    if metric is not None:
        sides["before"]["metric"], sides["after"]["metric"] = metric[1:]
    return {
        "name": name,
        "graphc": version("graphc"),
        "environment": environment(),
        "recipe": dict(recipe or {}),
        "bench": dict(bench) if bench is not None else None,
        "passes": [step.to_dict() for step in steps],
        **sides,
        "compression_ratio": {
            key: _ratio(sides["before"][key], sides["after"][key]) for key in ("params", "macs", "bytes")
        },
        **({"metric": {"name": metric[0], "retained": _ratio(metric[2], metric[1])}} if metric is not None else {}),
        "fidelity": _moved(before, after),
        "work": [work.to_dict() for work in works(before, after)],
        "hindrances": hindrances(analyze(before)),
        "artifacts": [dict(artifact) for artifact in artifacts],
    }


def _ratio(first: float, second: float) -> float | None:
    """First over second; None where that says nothing."""
    return first / second if second else None


def _moved(before: Program, after: Program) -> list[dict[str, Any]]:
    """How far each output that is left moved on the example inputs; null where a figure is not finite."""
    args, kwargs = after.example()
    if any(value.device.type == "meta" for value in after.tensors().values()):
        return []
    whole = inputs_of(before.contract, after.contract, args, kwargs, {})
    with torch.no_grad():
        first, second = before(*whole[0], **whole[1]), after(*args, **kwargs)
    pairs = shared_outputs(before.contract, first, after.contract, second)
    found = [compare_tensors(name, x, y).to_dict() for name, x, y in pairs]
    return [
        {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in facts.items()}
        for facts in found
    ]


def write_report(content: Mapping[str, Any], path: str | Path, pages: Mapping[str, str] | None = None) -> Path:
    """Write a report as JSON so that a reader sees the old file or the whole new one.

    Args:
        content: the report.
        path: of its file.
        pages: texts of files beside it, by name, which appear together with it.

    Raises:
        TypeError: something in it is not JSON-able; nothing is written.
        ValueError: a number is not finite; nothing is written.
        GraphError: the disk is full; the old file is as it was.
    """
    path = Path(path)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with staged(path) as inside:
        inside.write_text(text, encoding="utf-8")
        for name, page in (pages or {}).items():
            inside.with_name(name).write_text(page, encoding="utf-8")
    return path
