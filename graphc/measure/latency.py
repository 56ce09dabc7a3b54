"""Latency: several things timed alternately in one run, on the same inputs, with the same threads.

Taking turns (A B, B A, ...) exposes all of them to the same drift of the machine, so their samples
are paired and their ratio is steadier than either time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from graphc.errors import GraphError
from graphc.measure.runnable import Inputs, Runnable, prepare
from graphc.measure.turns import check_device, take_turns, threads_of_torch

NOISY, OWN = 0.25, 0.8
"""A spread above this is a warning, and so is a smaller part of the processor, where there is one thread."""


@dataclass(frozen=True)
class Measurement:
    """Times of one thing.

    Attributes:
        name, backend, device, threads, batch: what ran, where, and how; ``batch`` is dim 0 of the
            first input (0 if there is none).
        warmup, repeat: untimed and timed runs.
        p50_ms, p90_ms, p99_ms, mean_ms, min_ms: milliseconds of one run.
        throughput: samples a second at the median (runs a second where there is no batch).
        samples_ms: every timed run, in order.
        steady: whether times were steady when the warm-up ended; also where its length was given.
        cpu_ms: median milliseconds of the processor, of all threads, in a run: on one thread what it takes when no
            other process takes the processor away; None if it was not measured.
    """

    name: str
    backend: str
    device: str
    threads: int
    batch: int
    warmup: int
    repeat: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    throughput: float
    samples_ms: tuple[float, ...] = field(repr=False)
    steady: bool = True
    cpu_ms: float | None = None

    @property
    def spread(self) -> float:
        """How far the middle four fifths of all runs are apart, in units of the median: ``(p90 - p10) / p50``."""
        low, high = np.percentile(self.samples_ms, (10, 90))
        return float((high - low) / self.p50_ms) if self.p50_ms else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the spread, as JSON-able values."""
        return {**asdict(self), "spread": self.spread, "samples_ms": list(self.samples_ms)}


@dataclass(frozen=True)
class Ratio:
    """How long one thing takes in units of another: below 1 it is faster.

    Attributes:
        value: median of the paired ratios.
        low, high: bootstrap confidence interval of that median.
        confidence: of the interval, as a fraction.
    """

    value: float
    low: float
    high: float
    confidence: float


def benchmark(
    what: Any,
    *,
    inputs: Inputs = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    device: str = "cpu",
    backend: str | None = None,
    threads: int = 1,
    warmup: int | None = None,
    repeat: int = 50,
    seed: int = 0,
    name: str | None = None,
) -> Measurement:
    """Time one thing.

    Args:
        what: a Program, a module or any callable, or a path: ``.onnx``, ``.pt2`` or a folder that
            graphc wrote.
        inputs: a tensor, a tuple of positional or a mapping of named inputs. A Program brings its
            own; an ``.onnx`` file gets inputs made from its own specs.
        batch: size of the dynamic dim ``batch``, short for ``dims={"batch": batch}``; 1 if not given.
        dims: sizes of dynamic dims by name.
        device: ``cpu`` or ``cuda``.
        backend: ``eager`` (default), ``inductor`` (torch.compile) or ``onnxruntime`` (default for ``.onnx``).
        threads: of torch, or intra-op threads of onnxruntime; put back afterwards.
        warmup: untimed runs; None goes on until times are steady (``take_turns``).
        repeat: timed runs.
        seed: of inputs that are made here.
        name: in the result; a path's file name, or the type's name, by default.

    Raises:
        GraphError: the file, device or backend is not there, or inputs are missing.
    """
    names = None if name is None else [name]
    return compare(
        [what],
        inputs=inputs,
        batch=batch,
        dims=dims,
        device=device,
        backend=backend,
        threads=threads,
        warmup=warmup,
        repeat=repeat,
        seed=seed,
        names=names,
    )[0]


def compare(
    things: Sequence[Any],
    *,
    inputs: Inputs = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    device: str = "cpu",
    backend: str | None = None,
    threads: int = 1,
    warmup: int | None = None,
    repeat: int = 50,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> list[Measurement]:
    """Time several things alternately in one run; arguments are those of ``benchmark``.

    Returns:
        One Measurement each; their samples are paired (``ratio``).

    Raises:
        GraphError: as ``benchmark`` does, or the counts make no sense.
    """
    if repeat < 1 or (warmup or 0) < 0 or threads < 1:
        why = f"repeat={repeat}, warmup={warmup}, threads={threads}"
        raise GraphError("cannot benchmark", why=why, hint="repeat and threads are at least 1, warmup at least 0")
    if names is not None and len(names) != len(things):
        raise GraphError("cannot benchmark", why=f"{len(names)} names for {len(things)} things")
    check_device(device)
    sizes = {**(dims or {}), **({"batch": batch} if batch is not None else {})}
    with threads_of_torch(threads):
        ready = [prepare(t, inputs, sizes, device, backend, threads, seed) for t in things]
        return time_ready(ready, names or [runnable.name for runnable in ready], device, threads, warmup, repeat)


def time_ready(
    ready: Sequence[Runnable], names: Sequence[str], device: str, threads: int, warmup: int | None, repeat: int
) -> list[Measurement]:
    """Time what has been prepared, alternately; arguments are those of ``benchmark``."""
    turns = take_turns([runnable.run for runnable in ready], device, warmup, repeat)
    return [
        replace(summarize(samples, name, runnable, device, threads, turns.warmup), steady=turns.steady, cpu_ms=cpu)
        for samples, cpu, name, runnable in zip(turns.samples_ms, turns.cpu_ms, names, ready, strict=True)
    ]


def summarize(
    samples: Sequence[float], name: str, runnable: Runnable, device: str, threads: int, warmup: int
) -> Measurement:
    """The figures of some samples in milliseconds."""
    p50, p90, p99 = (float(np.percentile(samples, q)) for q in (50, 90, 99))
    return Measurement(
        name=name,
        backend=runnable.backend,
        device=device,
        threads=threads,
        batch=runnable.batch,
        warmup=warmup,
        repeat=len(samples),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(np.mean(samples)),
        min_ms=float(min(samples)),
        throughput=1000 * max(1, runnable.batch) / p50 if p50 else float("inf"),
        samples_ms=tuple(samples),
    )


def ratio(a: Measurement, b: Measurement, *, confidence: float = 0.95, seed: int = 0) -> Ratio:
    """Time of ``a`` over time of ``b``, from the paired samples of one ``compare``.

    The median of ``a_i / b_i`` and its percentile bootstrap interval (2,000 resamples).

    Raises:
        GraphError: the two were not measured together.
    """
    if len(a.samples_ms) != len(b.samples_ms):
        why = f"{len(a.samples_ms)} and {len(b.samples_ms)} samples"
        raise GraphError("cannot pair the samples", why=why, hint="measure both with one compare([...])")
    paired = np.asarray(a.samples_ms) / np.asarray(b.samples_ms)
    picks = np.random.default_rng(seed).integers(0, len(paired), (2000, len(paired)))
    medians = np.median(paired[picks], axis=1)
    low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Ratio(float(np.median(paired)), float(low), float(high), confidence)
