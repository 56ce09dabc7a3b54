"""The report of a compilation: one JSON-able document, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graphc.ir.program import Program
from graphc.measure.cost import changes, cost
from graphc.measure.environment import environment
from graphc.measure.latency import Measurement


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
        """Name, seconds, cost afterwards, changed modules, facts."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            **cost(self.after).to_dict(),
            "changes": [str(change) for change in changes(self.before, self.after)],
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def report(
    before: Program,
    after: Program,
    *,
    recipe: Mapping[str, Any] | None = None,
    steps: Sequence[Step] = (),
    artifacts: Sequence[Path] = (),
    measured: Mapping[str, Measurement] | None = None,
) -> dict[str, Any]:
    """Assemble the report of a compilation.

    Args:
        before, after: the captured and the compiled program.
        recipe: as validated.
        steps: the passes that ran, in order.
        artifacts: files or folders that were written; they are named without their folder.
        measured: latency of ``before`` and ``after``, under these names, and of whatever else.
    """
    latency = measured or {}
    sides = {}
    for side, program in (("before", before), ("after", after)):
        sides[side] = cost(program).to_dict()
        if side in latency:
            sides[side]["p50_ms"] = latency[side].p50_ms  # type: ignore[assignment] # a float among ints
    return {
        "graphc": version("graphc"),
        "environment": environment(),
        "recipe": dict(recipe or {}),
        "passes": [step.to_dict() for step in steps],
        **sides,
        "artifacts": [{"name": path.name, "bytes": size_on_disk(path)} for path in artifacts],
        "latency": {name: measurement.to_dict() for name, measurement in latency.items()},
    }


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def write_report(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write a report as JSON so that a reader sees the old file or the whole new one.

    Raises:
        TypeError: something in it is not JSON-able; nothing is written.
        ValueError: a number is not finite; nothing is written.
    """
    path = Path(path)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
