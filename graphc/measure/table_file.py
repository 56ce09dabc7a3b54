"""Latency tables on disk: JSON, with the machine and the runtime that they hold for, and refused elsewhere."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from graphc.errors import GraphError
from graphc.measure.environment import cpu_flags, cpu_model
from graphc.measure.isolated import Timing
from graphc.measure.latency_table import LatencyTable
from graphc.measure.report import write_report

FORMAT = "graphc latency table 1"
VECTORS = ("sse4_1", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
"""Instructions by which a runtime chooses its kernels."""


def this_machine() -> dict[str, Any]:
    """What times depend on, besides the threads."""
    flags = cpu_flags()
    return {
        "cpu": cpu_model(),
        "instructions": [name for name in VECTORS if name in flags],
        "platform": f"{platform.system()} {platform.machine()}",
        "onnxruntime": ort.__version__,
    }


def open_table(path: str | Path | None = None, threads: int = 1) -> LatencyTable:
    """The table in a file, or a new one if there is no such file.

    Raises:
        GraphError: the file is no latency table, or holds for another machine, runtime or number of threads.
    """
    machine = this_machine()
    if path is None or not os.path.exists(path):
        return LatencyTable(machine, threads)
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, and this graphc reads {FORMAT!r}")
        found = _table(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise GraphError("this is no latency table", where=str(path), why=why, hint="measure a new one") from error
    wanted = {**machine, "threads": threads}
    there = {**found.machine, "threads": found.threads}
    other = [
        f"{key}: {there.get(key)!r} there, {wanted[key]!r} here" for key in wanted if there.get(key) != wanted[key]
    ]
    if other:
        hint = "times do not carry over; measure a table of its own: `graphc latency-table ... -o OTHER.json`"
        raise GraphError(
            "the latency table is of another machine or runtime", where=str(path), why="; ".join(other), hint=hint
        )
    return found


def save_table(table: LatencyTable, path: str | Path) -> Path:
    """Write a table as JSON, whole or not at all."""
    families = {
        family: [
            {"sizes": sizes, "layouts": layouts, **vars(timing)} for (sizes, layouts), timing in sorted(found.items())
        ]
        for family, found in sorted(table.timings.items())
    }
    content = {"format": FORMAT, "machine": table.machine, "threads": table.threads, "wholes": table.wholes}
    return write_report({**content, "families": families}, path)


def _table(content: Mapping[str, Any]) -> LatencyTable:
    timings = {
        str(family): {(tuple(row["sizes"]), tuple(row["layouts"])): _timing(row) for row in rows}
        for family, rows in content["families"].items()
    }
    wholes = {
        str(name): (float(predicted), float(measured)) for name, (predicted, measured) in content["wholes"].items()
    }
    return LatencyTable(dict(content["machine"]), int(content["threads"]), timings, wholes)


def _timing(row: Mapping[str, Any]) -> Timing:
    return Timing(
        float(row["ms"]), int(row["ops"]), tuple(map(float, row["reads_ms"])), tuple(map(bool, row["blocked"]))
    )
