"""Latency within a compile: what it was and what it is, timed in turns at the recipe's sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from graphc.coupling.cost import one_sample
from graphc.emitters.base import Artifact, emit
from graphc.emitters.staging import size_of
from graphc.ir.program import Program
from graphc.ir.quantized import is_quantised
from graphc.measure.latency import Measurement, compare, ratio
from graphc.measure.placement import placement, why_not_faster
from graphc.pipeline.recipe import Bench

FASTER = 0.95
"""A ratio after / before above this is no gain worth its name."""


@dataclass(frozen=True)
class Latency:
    """Before and after, timed in turns in one run.

    Attributes:
        backend: ``eager`` or ``onnxruntime``.
        before_ms, after_ms: median milliseconds of one run.
        ratio, low, high: median of the paired ratios after / before, and its 95 % interval.
        bytes_before: size of the original's artifact; None where there is none.
        warnings: why integers are no faster, where they are not.
        before_samples_ms, after_samples_ms: every timed run, in order; the two took turns.
    """

    backend: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    bytes_before: int | None = None
    warnings: tuple[str, ...] = ()
    before_samples_ms: tuple[float, ...] = ()
    after_samples_ms: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def milliseconds(program: Program, bench: Bench, options: Mapping[str, Any]) -> float:
    """Median milliseconds of one run: of its ONNX file in onnxruntime on a CPU, in PyTorch elsewhere.

    Args:
        program: what to time.
        bench: sizes, threads and runs.
        options: of the ONNX file.
    """
    if bench.device != "cpu":
        return _timed([program], program, bench)[0].p50_ms
    with tempfile.TemporaryDirectory() as folder:
        return _timed([emit(program, Path(folder) / "program.onnx", **options).path], program, bench)[0].p50_ms


def sizes_of(program: Program, bench: Bench) -> dict[str, int]:
    """Sizes of dynamic dims, as a recipe wants them."""
    return dict.fromkeys(one_sample(program), bench.batch) | dict(bench.dims)


def time_programs(original: Program, program: Program, bench: Bench | None) -> Latency | None:
    """Both programs in PyTorch, or in onnxruntime if one has integers, for which PyTorch has no kernels.

    None if the recipe measures nothing.
    """
    if bench is None:
        return None
    if not is_quantised(program):
        return _compare([original, program], original, bench)
    with tempfile.TemporaryDirectory() as folder:
        paths = [emit(p, Path(folder) / f"{i}.onnx").path for i, p in enumerate((original, program))]
        return _compare(list(paths), original, bench)


def time_artifact(
    original: Program, program: Program, artifact: Artifact, options: Mapping[str, Any], bench: Bench | None
) -> Latency | None:
    """An ONNX file beside that of the original model, which is written for this and removed again."""
    if bench is None or artifact.kind != ".onnx":
        return None
    with tempfile.TemporaryDirectory() as folder:
        baseline = emit(original, Path(folder) / "original.onnx", **options)
        found = _compare([baseline.path, artifact.path], original, bench, size_of(baseline.path))
    if is_quantised(program) and bench.device == "cpu" and found.ratio > FASTER:
        return replace(found, warnings=tuple(why_not_faster(placement(artifact.path))))
    return found


def _compare(things: list[Any], original: Program, bench: Bench, size: int | None = None) -> Latency:
    before, after = _timed(things, original, bench)
    paired = ratio(after, before)
    return Latency(
        before.backend,
        before.p50_ms,
        after.p50_ms,
        paired.value,
        paired.low,
        paired.high,
        size,
        before_samples_ms=tuple(round(ms, 4) for ms in before.samples_ms),
        after_samples_ms=tuple(round(ms, 4) for ms in after.samples_ms),
    )


def _timed(things: list[Any], program: Program, bench: Bench) -> list[Measurement]:
    return compare(
        things,
        dims=sizes_of(program, bench),
        device=bench.device,
        threads=bench.threads,
        warmup=bench.warmup,
        repeat=bench.repeat,
    )
