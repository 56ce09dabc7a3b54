"""Programs measured whole, as onnxruntime runs what is emitted, undisturbed by what else the machine does."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphc.coupling.cost import one_sample
from graphc.emitters.onnx import OnnxEmitter
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.measure.runnable import prepare
from graphc.measure.turns import turn


def whole_ms(
    what: Sequence[Program | Path],
    dims: Mapping[str, int] | None = None,
    *,
    threads: int = 1,
    warmup: int = 5,
    repeat: int = 30,
    seed: int = 0,
) -> list[float]:
    """Median milliseconds of one run of each, timed in turns.

    On one thread it is time of the processor: what other processes take away meanwhile does not count, and on a
    machine that has nothing else to do it is the time that passes. On several threads it is the latter.

    Args:
        what: Programs, which are written as ONNX for this, or paths of ``.onnx`` files.
        dims: sizes of dynamic dims by name; the batch is 1 unless given, others are those of the example.
        threads: within one op.
        warmup, repeat: untimed and timed runs.
        seed: of inputs that are made.

    Raises:
        GraphError: a program cannot be written or run.
    """
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    with tempfile.TemporaryDirectory() as folder:
        ready = [_ready(w, Path(folder) / f"{i}.onnx", dims or {}, threads, seed) for i, w in enumerate(what)]
        samples = [turn(ready, number, partial(_ms, clock)) for number in range(warmup + repeat)]
    return [statistics.median(times) for times in zip(*samples[warmup:], strict=True)]


def write_whole(program: Program, path: Path) -> Path:
    """Write a program as ONNX, to be measured."""
    OnnxEmitter().write(make_permanent(program), path)
    return path


def _ms(clock: Callable[[], int], run: Callable[[], Any]) -> float:
    begin = clock()
    run()
    return (clock() - begin) / 1e6


def _ready(what: Program | Path, path: Path, dims: Mapping[str, int], threads: int, seed: int) -> Callable[[], Any]:
    if not isinstance(what, Program):
        return prepare(what, None, dims, "cpu", None, threads, seed).run
    args, kwargs = what.contract.resized(**{**one_sample(what), **dims})
    leaves = zip(what.contract.inputs, pytree.tree_leaves((args, kwargs)), strict=True)
    feed = {spec.name: value for spec, value in leaves if isinstance(value, torch.Tensor)}
    return prepare(write_whole(what, path), feed, {}, "cpu", None, threads, seed).run
