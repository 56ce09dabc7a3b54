"""What benchmarks.peers.int8 finds of one model: each tool's file is written, judged and timed in turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
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
    """A row for each mode, float32 first."""
    given, feeds = job(one, work), [*one.judging, *one.seen]
    files, judged = {FLOAT: given.file}, {FLOAT: outputs(given.file, feeds)}
    failed: dict[Mode, str] = {}
    for mode in wanted:
        try:
            path = written(mode, given)
            judged[mode], files[mode] = outputs(path, feeds), path
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is what is to be found
            failed[mode] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    times = dict(zip(files, compare([*files.values()], inputs=one.timed, warmup=5, repeat=repeat), strict=True))

    def row(mode: Mode) -> Row:
        if mode in failed:
            return Row(one.name, mode.tool, mode.name, failed[mode])
        known = _judgement(one, judged[FLOAT], judged[mode])
        known["size"] = files[mode].stat().st_size / files[FLOAT].stat().st_size
        known["of_float"] = _interval(times[mode], times[FLOAT])
        own = next((times[other] for other in times if other.tool == "graphc"), None)
        known["of_own"] = _interval(times[mode], own) if own else ()
        return Row(one.name, mode.tool, mode.name, ms=times[mode].p50_ms, **known)

    return [row(mode) for mode in [FLOAT, *wanted]]


def _interval(a: Measurement, b: Measurement) -> tuple[float, float, float]:
    found = ratio(a, b)
    return found.value, found.low, found.high


def _judgement(one: Subject, wanted: Tensor, found: Tensor) -> dict[str, Any]:
    """Fields of a row; outputs of the whole photographs come last, and every fifth of the others is of one."""
    count = len(one.judging)
    known: dict[str, Any] = fidelity(wanted[:count], found[:count])
    if one.kind != "text":
        whole = [*range(0, count, 5), *range(count, len(wanted))]
        known["top1"] = same_class(wanted[:count], found[:count]) / count
        known["photographs"] = (same_class(wanted[whole], found[whole]), len(whole))
    return known
