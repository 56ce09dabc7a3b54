"""All that graphc promises, tried on one model, stage by stage."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils import _pytree as pytree

import graphc
from benchmarks.models import Case, randomise
from benchmarks.soundness import SEED, half, outputs, train_one_step
from graphc.axes.axis import Axis, factors, terms
from graphc.coupling import analyze
from graphc.coupling.flow import Analysis
from graphc.errors import CaptureError
from graphc.measure.memory import peak_bytes

TOLERANCE = 1e-5


@dataclass
class Finding:
    """What was seen of one model so far.

    Attributes:
        name: the model.
        stage: the last stage that was begun; "done" at the end.
        refused: why capture refused the model; empty if it did not.
        failed: the error of the stage, one line; empty if there was none.
        nodes: nodes of the graph.
        exact: free axes that are not mixed.
        mixed: free axes that are mixed.
        error: ``|sliced - masked| / |masked|`` with half of every exact axis removed, at another size.
        moved: how much that cut moved the outputs, relative to them.
        free: share of the parameters that lie on a free axis.
        pins: for each kind of reason, how many axes it pins.
        conflicts: axes pinned because two dims meet without a common boundary.
        unknown: ops without a rule.
        params: parameters before the cut, after it, and after all mixed axes were cut too.
        seconds: by stage.
        peak_mb: the process's peak resident memory, in MB.
    """

    name: str
    stage: str = "build"
    refused: str = ""
    failed: str = ""
    nodes: int = 0
    exact: int = 0
    mixed: int = 0
    error: float = math.nan
    moved: float = math.nan
    free: float = math.nan
    pins: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0
    unknown: list[str] = field(default_factory=list)
    params: tuple[int, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: int = 0

    @property
    def captured(self) -> bool:
        """Did capture give a program?"""
        return self.nodes > 0

    @property
    def equal(self) -> bool:
        """Does the sliced program compute what the masked one does?"""
        return self.error <= TOLERANCE

    @property
    def done(self) -> bool:
        """Did every stage pass?"""
        return self.stage == "done" and self.equal


def examine(case: Case, onnx: bool = True, report: Callable[[Finding], None] = lambda _: None) -> Finding:
    """Run all stages on one model; an error ends it and is kept.

    Args:
        case: the model.
        onnx: also emit ONNX, which onnxruntime must then run with the same result.
        report: called with what is known whenever a stage begins, and at the end.
    """
    finding = Finding(case.name)
    try:
        for stage, seconds in _stages(case, finding, onnx):
            finding.seconds[finding.stage] = seconds
            finding.stage, finding.peak_mb = stage, peak_bytes() // 2**20
            report(finding)
    except CaptureError as error:
        finding.refused = " ".join(str(error).split()) if finding.stage == "capture" else ""
        finding.failed = "" if finding.refused else _one_line(error)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is what this benchmark is to find
        finding.failed = _one_line(error)
    finding.peak_mb = peak_bytes() // 2**20
    report(finding)
    return finding


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


def _stages(case: Case, finding: Finding, onnx: bool) -> Iterator[tuple[str, float]]:
    """Each yield ends a stage: the name of the next one, and the seconds that this one took."""
    clock = _Clock()
    torch.manual_seed(SEED)
    model = randomise(case.build())
    yield "capture", clock.lap()
    program = graphc.capture(model, (), case.inputs, dynamic=case.dynamic)
    finding.nodes = len(program.graph.nodes)
    yield "analyse", clock.lap()
    analysis = analyze(program)
    free = _describe(analysis, finding)
    exact = half([axis for axis in free if not axis.mixed], needs=analysis.needs)
    yield "slice", clock.lap()
    sliced = graphc.slice(program, exact)
    yield "verify", clock.lap()
    quick = _sizes(sliced)
    graphc.verify(sliced)
    assert quick == _sizes(sliced), "the slice gives other sizes than shape propagation from scratch"
    yield "compare", clock.lap()
    before, cut, reference = (outputs(p, case.other) for p in (program, sliced, graphc.mask(program, exact)))
    finding.error = _distance(cut, reference)
    finding.moved = _distance(before, reference)
    yield "cut all", clock.lap()
    smallest = graphc.slice(program, half(free, needs=analysis.needs))
    finding.params = tuple(sum(p.numel() for p in x.parameters()) for x in (program, sliced, smallest))
    del program, sliced, model, analysis
    assert bool(torch.isfinite(outputs(smallest, case.other)).all()), "the smallest program gives no finite numbers"
    yield "train", clock.lap()
    train_one_step(smallest)
    yield "capture again", clock.lap()
    args, kwargs = smallest.example()
    again = graphc.capture(smallest.module, args, kwargs, dynamic=case.dynamic)
    assert _distance(outputs(again, case.other), outputs(smallest, case.other)) <= TOLERANCE, "it is not the same"
    if onnx:
        yield "onnx", clock.lap()
        with tempfile.TemporaryDirectory() as folder:
            graphc.emit(smallest, Path(folder) / "model.onnx")
    yield "done", clock.lap()


class _Clock:
    def __init__(self) -> None:
        self.start = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        self.start, seconds = now, now - self.start
        return round(seconds, 3)


def _sizes(program: graphc.Program) -> list[str]:
    """The sizes of every value of a program."""
    values = pytree.tree_leaves([node.meta.get("val") for node in program.graph.nodes])
    return [str(value.shape) if isinstance(value, torch.Tensor) else str(value) for value in values]


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def _describe(analysis: Analysis, finding: Finding) -> Sequence[Axis]:
    """Note what the analysis says; give the free axes."""
    free = [axis for axis in analysis.axes if axis.pinned is None]
    finding.mixed = sum(axis.mixed for axis in free)
    finding.exact = len(free) - finding.mixed
    finding.free = free_share(analysis)
    reasons = [axis.pinned for axis in analysis.axes if axis.pinned is not None]
    finding.pins = dict(Counter(map(kind_of_pin, reasons)).most_common())
    finding.conflicts = sum("without a common boundary" in reason for reason in reasons)
    finding.unknown = sorted(analysis.unknown)
    return free


def kind_of_pin(reason: str) -> str:
    """A reason without the names and numbers of its model."""
    general = re.sub(r"^.* meets .* without", "dims meet without", reason)
    general = re.sub(r"\(.*?\)|\[.*?\]", "", re.sub(r" at .*", "", general))
    return re.sub(r"\b(input|output|of|that) [\w.]*[\d_.][\w.]*", r"\1 ...", general).strip()


def free_share(analysis: Analysis) -> float:
    """The share of all parameter entries that lie on at least one free axis, mixed or not."""
    entries = on_free = 0.0
    for name, value in analysis.program.tensors().items():
        if isinstance(value, torch.nn.Parameter):
            entries += value.numel()
            on_free += value.numel() * (1 - math.prod(1 - _free_part(axis) for axis in analysis.tensors[name]))
    return on_free / entries if entries else math.nan


def _free_part(axis: Axis | None) -> float:
    """The share of a dim's positions that lie on a free leaf."""
    if axis is None or axis.size == 1:
        return 0.0
    axis = axis.root()
    if axis.kind == "sum":
        return sum(_free_part(part) * part.size for part in terms(axis)) / axis.size
    if axis.kind == "product":
        return 1 - math.prod(1 - _free_part(part) for part in factors(axis))
    return float(axis.pinned is None)
