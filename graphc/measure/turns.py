"""Turns: several things run alternately and timed, after a warm-up that ends when their times are steady."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from graphc.errors import GraphError

Run = Callable[[], Any]
T = TypeVar("T")
WINDOW, STEADY = 5, 0.05
"""A warm-up ends when the median of so many rounds differs by no more than this part from that of as many before."""
MOST_ROUNDS, MOST_SECONDS = 200, 10.0
"""When a warm-up ends at the latest."""


@dataclass(frozen=True)
class Turns:
    """What was timed.

    Attributes:
        samples_ms: of each thing, every timed run in order; those of all things are paired.
        cpu_ms: of each thing, the median of what all threads of this process took of the processor in a run.
        warmup: untimed rounds before.
        steady: whether the warm-up ended because times were steady; also where its length was given.
    """

    samples_ms: tuple[tuple[float, ...], ...]
    cpu_ms: tuple[float, ...]
    warmup: int
    steady: bool


def take_turns(runs: Sequence[Run], device: str, warmup: int | None, repeat: int) -> Turns:
    """Run all once, again and again, each second time in reverse (A B, B A, ...), and time each run.

    Args:
        runs: what to run.
        device: ``cpu`` or ``cuda``; on the latter CUDA events time the work, with the device idle before and after.
        warmup: untimed rounds; None goes on until times are steady, for at most 200 rounds or 10 seconds.
        repeat: timed rounds.
    """
    with torch.inference_mode(), _no_collection():
        rounds, steady = _warm_up(runs, device, warmup)
        times = [turn(runs, number, lambda run: _both(run, device)) for number in range(repeat)]
    pairs = [tuple(zip(*column, strict=True)) for column in zip(*times, strict=True)]
    samples, taken = ([pair[i] for pair in pairs] for i in range(2))
    return Turns(tuple(samples), tuple(map(statistics.median, taken)), rounds, steady)


def turn(runs: Sequence[Run], number: int, take: Callable[[Run], T]) -> list[T]:
    """What each run takes, in the order given; odd turns go in reverse.

    What runs first finds caches as something else left them, which is worth a percent or two.
    """
    order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
    found = {place: take(runs[place]) for place in order}
    return [found[place] for place in range(len(runs))]


def _both(run: Run, device: str) -> tuple[float, float]:
    """Milliseconds of one run, and what it took of the processor."""
    begin = time.process_time_ns()
    passed = once(run, device)
    return passed, (time.process_time_ns() - begin) / 1e6


def _warm_up(runs: Sequence[Run], device: str, warmup: int | None) -> tuple[int, bool]:
    times: list[list[float]] = []
    begin = time.monotonic()
    while len(times) < (MOST_ROUNDS if warmup is None else warmup):
        times.append(turn(runs, len(times), lambda run: once(run, device)))
        if warmup is None and _steady(times):
            return len(times), True
        if warmup is None and time.monotonic() - begin > MOST_SECONDS:
            break
    return len(times), warmup is not None


def _steady(times: Sequence[Sequence[float]]) -> bool:
    if len(times) < 2 * WINDOW:
        return False
    for samples in zip(*times, strict=True):
        before, now = (statistics.median(part) for part in (samples[-2 * WINDOW : -WINDOW], samples[-WINDOW:]))
        if abs(now - before) > STEADY * before:
            return False
    return True


def once(run: Run, device: str) -> float:
    """Milliseconds of one run."""
    if device.startswith("cuda"):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call] # torch
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))
    begin = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - begin) / 1e6


def check_device(device: str) -> None:
    """See that there is such a device.

    Raises:
        GraphError: there is not; in one line.
    """
    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise GraphError(f"cannot benchmark on {device!r}: torch finds no CUDA device; ask for 'cpu'")
    elif device != "cpu":
        raise GraphError(f"cannot benchmark on {device!r}: it is neither 'cpu' nor 'cuda'")


@contextlib.contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """So many threads within one op, put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
