"""Benchmarks: several artifacts, backends, devices, thread counts and sizes; those of one setting take turns."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphc.errors import GraphError, nearest
from graphc.ir.program import Program
from graphc.measure.environment import environment
from graphc.measure.latency import NOISY, OWN, Measurement, ratio, time_ready
from graphc.measure.on_device import on_device
from graphc.measure.profile import Profile
from graphc.measure.profile_onnx import profile_onnx
from graphc.measure.profile_torch import profile_eager
from graphc.measure.roofline import Roofline, measure_roofline
from graphc.measure.runnable import prepare, provider_of
from graphc.measure.turns import check_device, threads_of_torch
from graphc.pipeline.alone import Alone, run_alone
from graphc.pipeline.bench_result import BenchResult, Profiled, Row, Setting
from graphc.pipeline.entrants import BACKENDS, Entrant, find_entrants, settle_sizes
from graphc.pipeline.model import Model

Progress = Callable[[int, int, str], None]
PROFILE_WARMUP, PROFILE_REPEAT = 3, 20
"""Runs under a profiler: that do not count, and that do at most."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What to measure, and how.

    Attributes:
        backends: of ``onnxruntime``, ``eager`` and ``inductor``; empty for the one that each artifact is made for.
        devices, threads: each with each; threads are those within one op.
        sizes: of dynamic dims, ``batch`` among them, several of each; each with each.
        warmup: untimed runs; None goes on until times are steady.
        repeat: timed runs.
        memory: also start a process for each artifact and sizes, to measure loading and memory.
        profile: also profile each artifact in each setting, op by op.
        seed: of made inputs and of confidence intervals.
    """

    backends: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    threads: tuple[int, ...] = (1,)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    warmup: int | None = None
    repeat: int = 50
    memory: bool = True
    profile: bool = False
    seed: int = 0

    def check(self, models: Sequence[Model]) -> None:
        """See that all can be had, before any work.

        Raises:
            GraphError: a device, backend or file is not there, or a number makes no sense.
        """
        for backend in self.backends:
            if backend not in BACKENDS:
                raise GraphError(f"there is no backend {backend!r}", where="--backend", hint=nearest(backend, BACKENDS))
        for model in models:
            model.check("benchmark")
        in_onnxruntime = "onnxruntime" in self.backends or (not self.backends and any(m.is_onnx for m in models))
        for device in self.devices:
            check_device(device)
            if in_onnxruntime:
                provider_of(device)
            if self.profile and in_onnxruntime and device != "cpu":
                why = "onnxruntime's profiler times how kernels are started, not how they run"
                raise GraphError(
                    f"cannot profile onnxruntime on {device!r}", why=why, hint="profile with --backend eager"
                )
        numbers = [*self.threads, self.repeat, *itertools.chain(*self.sizes.values())]
        if min(numbers) < 1 or (self.warmup or 0) < 0:
            raise GraphError("sizes, threads and runs are at least 1, untimed runs at least 0", where="graphc bench")

    def grid(self) -> Iterator[dict[str, int]]:
        """All combinations of sizes."""
        for values in itertools.product(*self.sizes.values()):
            yield dict(zip(self.sizes, values, strict=True))


def bench(models: Sequence[Model], wishes: Wishes, progress: Progress = lambda done, total, text: None) -> BenchResult:
    """Measure some artifacts.

    All that run in one setting (device, threads, sizes) take turns, A B, B A, so that a drift of the machine meets all
    alike. The ratio of each to the first is the median of the ratios of runs that were side by side, and its interval
    the percentile bootstrap of that median: 2,000 resamples of the pairs, seeded, 95 %.

    Args:
        models: what to measure; the first is what the others are compared with.
        wishes: how.
        progress: called with (settings done, of how many, what comes now).

    Raises:
        GraphError: something is not there, does not run, or has no such dim.
    """
    wishes.check(models)
    with tempfile.TemporaryDirectory() as folder:
        progress(0, 0, "reading")
        entrants, skipped = find_entrants(models, wishes.backends, Path(folder))
        sizes = [settle_sizes(entrants, asked) for asked in wishes.grid()]
        plan = [Setting(*point) for point in itertools.product(wishes.devices, sizes, wishes.threads)]
        work = _Work(entrants, wishes)
        for number, setting in enumerate(plan):
            progress(number, len(plan), f"measuring with {setting}")
            work.setting(setting)
        if wishes.profile:
            progress(len(plan), len(plan), "measuring what this machine can do")
        return BenchResult(environment(), wishes.repeat, tuple(work.rows), work.profiled(), tuple(skipped))


class _Work:
    """What is found, setting by setting."""

    def __init__(self, entrants: Sequence[Entrant], wishes: Wishes) -> None:
        self.entrants, self.wishes = entrants, wishes
        self.rows: list[Row] = []
        self.profiles: list[tuple[Row, Profile]] = []
        self.alone: dict[tuple[int, str, tuple[tuple[str, int], ...]], Alone] = {}
        self.placed: dict[tuple[int, str], Program] = {}

    def setting(self, setting: Setting) -> None:
        """Measure all entrants in one setting."""
        wishes = self.wishes
        ready, device = [], setting.device
        with threads_of_torch(setting.threads):
            for number, entrant in enumerate(self.entrants):
                own = entrant.own({name: size for name, size in setting.sizes.items() if name in entrant.dims})
                what, backend = self.what(number, device), entrant.backend
                ready.append(prepare(what, None, own, device, backend, setting.threads, wishes.seed))
            names = [entrant.name for entrant in self.entrants]
            found = time_ready(ready, names, device, setting.threads, wishes.warmup, wishes.repeat)
        del ready
        for number, (entrant, measured) in enumerate(zip(self.entrants, found, strict=True)):
            apart = self.by_itself(number, setting) if wishes.memory else Alone()
            compared = ratio(measured, found[0], seed=wishes.seed)
            row = Row(
                entrant.name, setting, measured, compared, apart, entrant.bytes, warnings_of(measured, found[0], apart)
            )
            self.rows.append(row)
            if wishes.profile:
                self.profiles.append((row, self.profile(number, setting)))

    def what(self, number: int, device: str) -> Program | Path:
        """An entrant on a device."""
        what = self.entrants[number].what
        if isinstance(what, Path):
            return what
        if (number, device) not in self.placed:
            self.placed[number, device] = on_device(what, device)
        return self.placed[number, device]

    def by_itself(self, number: int, setting: Setting) -> Alone:
        """Loading and memory, once for each sizes, whatever the threads."""
        key = (number, setting.device, tuple(setting.sizes.items()))
        if key not in self.alone:
            entrant = self.entrants[number]
            sizes = {name: size for name, size in setting.sizes.items() if name in entrant.dims}
            self.alone[key] = run_alone(entrant, sizes, setting.device, setting.threads)
        return self.alone[key]

    def profile(self, number: int, setting: Setting) -> Profile:
        """One entrant, op by op."""
        entrant, what = self.entrants[number], self.what(number, setting.device)
        own = entrant.own({name: size for name, size in setting.sizes.items() if name in entrant.dims})
        repeat = min(self.wishes.repeat, PROFILE_REPEAT)
        if isinstance(what, Path):
            return profile_onnx(what, None, own, setting.threads, PROFILE_WARMUP, repeat, self.wishes.seed)
        with threads_of_torch(setting.threads):
            if entrant.backend == "inductor":
                from graphc.measure.profile_inductor import (  # noqa: PLC0415 - seconds that only this needs
                    profile_inductor,
                )

                return profile_inductor(what, own, setting.device, PROFILE_WARMUP, repeat)
            return profile_eager(what, own, setting.device, PROFILE_WARMUP, repeat)

    def profiled(self) -> tuple[Profiled, ...]:
        """Profiles beside the roofline that holds for each."""
        kinds: dict[tuple[str, int], set[str]] = {}
        for row, profile in self.profiles:
            dtypes = {op.dtype for op in profile.ops if op.macs}
            kinds.setdefault((row.setting.device, row.setting.threads), set()).update(dtypes)
        roofs: dict[tuple[str, int], Roofline] = {key: measure_roofline(*key, found) for key, found in kinds.items()}
        return tuple(
            Profiled(
                row.name, row.measurement.backend, row.setting, profile, roofs[row.setting.device, row.setting.threads]
            )
            for row, profile in self.profiles
        )


def warnings_of(measured: Measurement, first: Measurement, apart: Alone) -> tuple[str, ...]:
    """What a reader should know of a row."""
    found = []
    cpu = measured.cpu_ms
    if measured.spread > NOISY:
        found.append(f"noisy: the middle 80 % of runs spread over {measured.spread:.0%} of the median")
    if cpu is not None and (measured.device, measured.threads) == ("cpu", 1) and cpu < OWN * measured.p50_ms:
        share = f"it had the processor for {cpu / measured.p50_ms:.0%} of the time"
        found.append(f"{share}, as other processes run: by itself it takes {cpu:.3f} ms")
    if not measured.steady:
        found.append(f"times were not steady after {measured.warmup} runs")
    if measured.batch != first.batch:
        found.append(f"its batch is {measured.batch}, that of the first {first.batch}: the ratio is not of equals")
    if apart.error:
        found.append(f"loading and memory were not measured: {apart.error}")
    return tuple(found)
