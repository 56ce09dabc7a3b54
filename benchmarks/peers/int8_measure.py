"""What benchmarks.peers.int8 finds of one model: each tool's file is written, judged and timed in turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

import graphc
from benchmarks.peers.int8_models import Feed, Subject
from benchmarks.peers.int8_tools import Job, Mode, arrays
from graphc.measure.fidelity import compare_tensors
from graphc.measure.latency import Measurement, compare, ratio

FLOAT = Mode("float32", "", lambda job, path: None)
NEAR = 6.0
"""Decibels below the best peer's SQNR within which a mode keeps accuracy."""
SECOND = 4
"""Times as many runs in the second round."""


@dataclass(frozen=True)
class Row:
    """One file.

    Attributes:
        model, tool, mode: what it is.
        failed: why there is none, in one line.
        ms: median milliseconds of a run.
        of_float, of_own: time over the float32 file's and over graphc's, with the ends of its interval.
        sqnr: of all outputs, in dB.
        cosine, least_cosine: between outputs of a sample, in the mean and of the worst.
        top1: share of the samples with the class of float32; None where there are no classes.
        photographs: how many whole photographs have the class of float32, and of how many.
        size: bytes over the float32 file's.
        raced: whether ``of_own`` is that of the second round.
    """

    model: str
    tool: str
    mode: str
    failed: str = ""
    ms: float = 0.0
    of_float: Sequence[float] = ()
    of_own: Sequence[float] = ()
    sqnr: float = 0.0
    cosine: float = 0.0
    least_cosine: float = 0.0
    top1: float | None = None
    photographs: Sequence[int] = ()
    size: float = 0.0
    raced: bool = False


def job(one: Subject, work: Path) -> Job:
    """With the float32 file in a folder that is named by what is in it."""
    file = graphc.emit(one.program, work / f"{one.name}.onnx").path
    folder = work / f"{one.name}-{sha256(file.read_bytes()).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    return Job(one, file.replace(folder / "float32.onnx"), folder)


def written(mode: Mode, given: Job) -> Path:
    """The mode's file; that of a peer may be there already."""
    path = given.folder / f"{mode.tool} {mode.name}.onnx"
    if mode.tool == "graphc" or not path.exists():
        part = given.folder / "part.onnx"
        mode.write(given, part)
        part.replace(path)
    return path


def outputs(path: Path, feeds: Sequence[Feed]) -> Tensor:
    """``[samples, classes]``, or the mean of the token states, ``[samples, width]``.

    Raises:
        ValueError: some are infinite or no numbers.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(session.run(None, arrays(feed))[0]) for feed in feeds]
    joined = torch.cat([value.mean(1) if value.ndim == 3 else value for value in found])
    if not bool(torch.isfinite(joined).all()):
        raise ValueError("outputs are not finite")
    return joined


def fidelity(wanted: Tensor, found: Tensor) -> dict[str, float]:
    """Of outputs ``[samples, width]``: fields of a row; 400 dB stand for equality."""
    error = compare_tensors("all", wanted, found).relative_error
    cosines = [compare_tensors("one", x, y).cosine for x, y in zip(wanted, found, strict=True)]
    sqnr = -20 * math.log10(max(error, 1e-20))
    return {"sqnr": sqnr, "cosine": statistics.mean(cosines), "least_cosine": min(cosines)}


def same_class(wanted: Tensor, found: Tensor) -> int:
    """In how many rows the greatest is the same."""
    return int((wanted.argmax(1) == found.argmax(1)).sum())


def measure(one: Subject, wanted: Sequence[Mode], work: Path, repeat: int) -> list[Row]:
    """A row for each mode, float32 first.

    All files are timed in turns. Of many files that are much the same, the one that comes out first was lucky, and
    whichever comes after float32 finds its weights gone from the caches. So graphc and the fastest peer that
    keeps accuracy are timed once more, longer, and with nothing between them.
    """
    given, feeds = job(one, work), [*one.judging, *one.seen]
    rows, files = {}, {}
    reference = outputs(given.file, feeds)
    for mode in [FLOAT, *wanted]:
        row = Row(one.name, mode.tool, mode.name)
        try:
            path = given.file if mode is FLOAT else written(mode, given)
            size = path.stat().st_size / given.file.stat().st_size
            rows[mode] = replace(row, size=size, **_judgement(one, reference, outputs(path, feeds)))
            files[mode] = path
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is what is to be found
            rows[mode] = replace(row, failed=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    rows |= _timed(rows, files, one, repeat)
    if best := rivals(list(rows.values())):
        own, fast = (next(mode for mode in files if rows[mode] is row) for row in best)
        pair = compare([files[own], files[fast]], inputs=one.timed, warmup=5, repeat=SECOND * repeat)
        rows[fast] = replace(rows[fast], of_own=_interval(pair[1], pair[0]), raced=True)
    return list(rows.values())


def _timed(rows: Mapping[Mode, Row], files: Mapping[Mode, Path], one: Subject, repeat: int) -> dict[Mode, Row]:
    """The rows of some files, with their times."""
    times = dict(zip(files, compare([*files.values()], inputs=one.timed, warmup=5, repeat=repeat), strict=True))
    own = next((times[mode] for mode in files if mode.tool == "graphc"), None)
    return {
        mode: replace(
            rows[mode],
            ms=found.p50_ms,
            of_float=_interval(found, times[FLOAT]),
            of_own=_interval(found, own) if own else (),
        )
        for mode, found in times.items()
    }


def _interval(a: Measurement, b: Measurement) -> tuple[float, float, float]:
    found = ratio(a, b)
    return found.value, found.low, found.high


def rivals(rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """Of one model: graphc's first row, and the fastest peer that keeps accuracy; None if there are no such two."""
    own = next((row for row in rows if row.tool == "graphc"), None)
    done = peers(rows)
    if own is None or own.failed or not done:
        return None
    least = nearest(done).sqnr - NEAR
    return own, min((row for row in done if row.sqnr >= least), key=lambda row: (not row.raced, row.of_float[0]))


def peers(rows: Sequence[Row]) -> list[Row]:
    """Those of other tools that came to something."""
    return [row for row in rows if row.tool not in ("graphc", FLOAT.tool) and not row.failed]


def nearest(rows: Sequence[Row]) -> Row:
    """The most faithful."""
    return max(rows, key=lambda row: row.sqnr)


def _judgement(one: Subject, wanted: Tensor, found: Tensor) -> dict[str, Any]:
    """Fields of a row; outputs of the whole photographs come last, and every fifth of the others is of one."""
    count = len(one.judging)
    known: dict[str, Any] = fidelity(wanted[:count], found[:count])
    if one.kind != "text":
        whole = [*range(0, count, 5), *range(count, len(wanted))]
        known["top1"] = same_class(wanted[:count], found[:count]) / count
        known["photographs"] = (same_class(wanted[whole], found[whole]), len(whole))
    return known
