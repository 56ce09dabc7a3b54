"""What a benchmark found, and the one JSON that tells it.

The JSON has these keys; a change of their meaning changes ``format``::

    format        "graphc bench 1"
    environment   processor, cores, gpu, versions (graphc.measure.environment)
    repeat        timed runs
    skipped       sentences about artifacts that do not run with a backend that was asked for
    results       one entry for each artifact, backend and setting, in the order in which they were measured:
      artifact, backend, device, threads   what ran, and where
      sizes         of dynamic dims, by name; the dim 0 of the first input is called "batch"
      batch         dim 0 of the first input; 0 if there is none
      warmup, repeat, steady               untimed and timed runs; had times become steady before?
      p50_ms, p90_ms, p99_ms, mean_ms, min_ms, spread, throughput, cpu_ms, samples_ms   graphc.measure.Measurement
      ratio         {value, low, high, confidence}: time / that of the first artifact of the setting
      load_ms, first_ms, memory_bytes, device_bytes     graphc.pipeline.alone.Alone; null if not measured
      file_bytes    of the artifact; null for a recipe
      warnings      sentences
    profiles      with --profile, one entry for each entry of results:
      artifact, backend, device, threads, sizes
      run_ms, ops_ms, note                 of a run with the profiler on, of all its ops, and what to know of it
      roofline      its place in rooflines
      ops           in the order in which they run; milliseconds are the mean of the fastest quarter of runs:
        name, op, modules, ms, macs, weight_bytes, value_bytes, dtype    graphc.measure.profile.Op
        bound, ideal_ms, left_ms                                         graphc.measure.profile.Limit
    rooflines     device, threads, macs_per_s {dtype: rate}, bytes_per_s [[bytes, rate], ...]

Milliseconds are ``*_ms``, sizes in memory ``*_bytes``, and 1 MAC = 2 FLOPs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphc.measure.latency import Measurement, Ratio
from graphc.measure.profile import Limit, Op, Profile
from graphc.measure.roofline import Roofline
from graphc.pipeline.alone import Alone

FORMAT = "graphc bench 1"
TOP = 12
"""Ops of a profile that people are shown."""


@dataclass(frozen=True)
class Setting:
    """Where and how artifacts run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        sizes: of dynamic dims, by name.
        threads: within one op.
    """

    device: str
    sizes: Mapping[str, int]
    threads: int

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return ", ".join([*(f"{name} {size}" for name, size in self.sizes.items()), threads, self.device])


@dataclass(frozen=True)
class Row:
    """One artifact in one setting.

    Attributes:
        name: of the artifact.
        setting: where and how.
        measurement: its times.
        ratio: to the first artifact of the setting.
        alone: loading and memory.
        file_bytes: of the artifact; None for a recipe.
        warnings: sentences.
    """

    name: str
    setting: Setting
    measurement: Measurement
    ratio: Ratio
    alone: Alone
    file_bytes: int | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        times = self.measurement.to_dict()
        del times["name"]
        apart = {key: value for key, value in asdict(self.alone).items() if key != "error"}
        return {
            "artifact": self.name,
            "sizes": dict(self.setting.sizes),
            **times,
            "ratio": asdict(self.ratio),
            **apart,
            "file_bytes": self.file_bytes,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Profiled:
    """One artifact in one setting, op by op, beside what the machine can do."""

    name: str
    backend: str
    setting: Setting
    profile: Profile
    roofline: Roofline

    def top(self) -> Iterator[tuple[Op, Limit]]:
        """The ops that take longest, with what bounds them."""
        pairs = zip(self.profile.ops, self.profile.limits(self.roofline), strict=True)
        yield from sorted(pairs, key=lambda pair: -pair[0].ms)[:TOP]

    def says(self) -> str:
        """One line."""
        bound = sum(limit.ideal_ms for limit in self.profile.limits(self.roofline))
        ops = self.profile.ops_ms
        note = f"; {self.profile.note}" if self.profile.note else ""
        share = f"{bound / ops:.0%}" if ops else "none"
        return (
            f"{self.name} ({self.backend}), {self.setting}: {len(self.profile.ops)} ops take {ops:.3f} of "
            f"{self.profile.run_ms:.3f} ms; the roofline asks for {bound:.3f} ms, {share}{note}"
        )


@dataclass(frozen=True)
class BenchResult:
    """All that was found."""

    environment: Mapping[str, Any]
    repeat: int
    rows: tuple[Row, ...]
    profiles: tuple[Profiled, ...] = ()
    skipped: tuple[str, ...] = ()

    def settings(self) -> Iterator[tuple[Setting, list[Row]]]:
        """Rows that are compared with each other."""
        rows: dict[str, list[Row]] = {}
        for row in self.rows:
            rows.setdefault(str(row.setting), []).append(row)
        for group in rows.values():
            yield group[0].setting, group

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: see the top of this file."""
        roofs = {id(one.roofline): one.roofline for one in self.profiles}
        places = {key: place for place, key in enumerate(roofs)}
        profiles = [
            {
                "artifact": one.name,
                "backend": one.backend,
                **asdict(one.setting),
                "roofline": places[id(one.roofline)],
                **one.profile.to_dict(one.roofline),
            }
            for one in self.profiles
        ]
        return {
            "format": FORMAT,
            "environment": dict(self.environment),
            "repeat": self.repeat,
            "skipped": list(self.skipped),
            "results": [row.to_dict() for row in self.rows],
            "profiles": profiles,
            "rooflines": [roof.to_dict() for roof in roofs.values()],
        }

    def to_csv(self) -> str:
        """One line for each result, without samples; dims have a column each."""
        lines = []
        for row in self.rows:
            values = row.to_dict()
            del values["samples_ms"]
            own = values.pop("ratio")
            sizes = {f"size_{name}": size for name, size in values.pop("sizes").items()}
            ratios = {"ratio": own["value"], "ratio_low": own["low"], "ratio_high": own["high"]}
            lines.append({**values, "warnings": "; ".join(values["warnings"]), **ratios, **sizes})
        out = io.StringIO()
        writer = csv.DictWriter(out, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return out.getvalue()

    def to_markdown(self) -> str:
        """Tables as people read them, with where they were measured."""
        parts = [_about(self.environment, self.repeat)]
        for setting, rows in self.settings():
            parts.append(f"### {setting}\n\n" + _table(HEADS, [cells(row) for row in rows]))
            parts += [f"{row.name} ({row.measurement.backend}): {text}" for row in rows for text in row.warnings]
        for one in self.profiles:
            table = _table(OP_HEADS, [op_cells(op, limit) for op, limit in one.top()])
            parts.append(f"### Ops of {one.says()}\n\n{table}")
        return "\n\n".join([*parts, *self.skipped]) + "\n"


HEADS = (
    *("artifact", "backend", "p50 ms", "p90 ms", "p99 ms", "cpu ms", "samples/s", "time / first (95 %)"),
    *("load ms", "first ms", "memory MB", "file MB"),
)
OP_HEADS = ("module", "op", "ms", "GMAC/s", "bound by", "of the limit", "left ms")


def cells(row: Row) -> list[str]:
    """A row as people read it."""
    found, apart = row.measurement, row.alone
    memory = apart.device_bytes if apart.device_bytes is not None else apart.memory_bytes
    times = [_ms(value) for value in (found.p50_ms, found.p90_ms, found.p99_ms, found.cpu_ms)]
    interval = f"{row.ratio.value:.3f} ({row.ratio.low:.3f} to {row.ratio.high:.3f})"
    loading = [f"{value:.0f}" if value is not None else "" for value in (apart.load_ms, apart.first_ms)]
    sizes = [f"{value / 1e6:.1f}" if value is not None else "" for value in (memory, row.file_bytes)]
    return [row.name, found.backend, *times, f"{found.throughput:.1f}", interval, *loading, *sizes]


def _ms(value: float | None) -> str:
    """Three digits after the point, or four in all."""
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.4g}"


def op_cells(op: Op, limit: Limit) -> list[str]:
    """An op as people read it."""
    more = f" +{len(op.modules) - 1}" if len(op.modules) > 1 else ""
    module = (op.modules[0] if op.modules else "") + more
    rate = f"{op.macs / op.ms / 1e6:.1f}" if op.macs and op.ms else ""
    share = f"{min(1.0, limit.ideal_ms / op.ms):.0%}" if op.ms else ""
    return [module, op.op, f"{op.ms:.3f}", rate, limit.bound, share, f"{limit.left_ms:.3f}"]


def _about(facts: Mapping[str, Any], repeat: int) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['gpu'] or 'no GPU'}; {versions}; {repeat} runs in turns"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
