"""Latency as a budget: predicted from a table of this machine, measured at the end, and corrected if that is off."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphc.axes.axis import Axis
from graphc.coupling import Analysis, slice
from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.measure.blocks import Blocks
from graphc.measure.cover import grid, sized_at_random
from graphc.measure.isolated import Job, Timing, time_blocks
from graphc.measure.latency_table import LatencyTable
from graphc.measure.table_file import open_table, save_table
from graphc.measure.whole import whole_ms, write_whole
from graphc.pipeline.base import Context

from .ranking import Allowed, Ranking

CHECKS = 5
"""How often sizes are chosen anew, with what the last ones really took."""
CLOSE = 0.01
"""A share of the target within which no better sizes are looked for."""
WRONG = 0.05
"""A share of the target by which the result may miss it."""
SAMPLES = 16
"""Sizes of each block that are measured."""
LEVELS = 32
"""Sizes of an axis that are looked at."""
PAYS = 0.25
"""A size must save this share of what it and the next smaller one save together."""


@dataclass
class Clock:
    """Latency of a program at sizes of its axes.

    Attributes:
        table: what blocks take.
        blocks: of the program that is cut now.
        dims: sizes of dynamic dims by name.
        original: the ``.onnx`` file of the program as it was.
        first_ms: what that takes.
        correction: what programs took in units of what was predicted.
        checks: sizes that were tried: predicted and measured milliseconds.
        limit, found: what was asked in the end, and what the result takes.
    """

    table: LatencyTable
    blocks: Blocks
    dims: Mapping[str, int]
    original: Path
    first_ms: float
    correction: float = 1.0
    checks: list[tuple[float, float]] = field(default_factory=list)
    limit: float = math.nan
    found: float = math.nan

    def __call__(self, sizes: Mapping[Axis, int]) -> float:
        """Milliseconds of the program at some sizes."""
        return self.table.predict(self.blocks, sizes).ms * self.correction

    def turn_to(self, program: Program) -> Analysis:
        """Look at a program that was cut, or trained, in the meantime."""
        self.blocks = self.table.take_apart(program, self.dims)
        return self.blocks.analysis

    def paying(self, ranking: Ranking) -> Ranking:
        """The ranking with sizes at which what is removed is time as well."""
        allowed = {axis: replace(sizes, sizes=paying(axis, sizes, self)) for axis, sizes in ranking.allowed.items()}
        return replace(ranking, allowed=allowed)

    def meet(
        self, limit: float, program: Program, ranking: Ranking, sized: Callable[[], Mapping[Axis, int]]
    ) -> Program:
        """Cut so that what is measured meets a limit; sizes are chosen anew with what the last ones really took.

        Raises:
            GraphError: what comes nearest is too slow.
        """
        self.limit = limit
        tried: list[tuple[float, Program]] = []
        before: list[Mapping[Axis, int]] = []
        used: list[tuple[float, float]] = []
        for _ in range(CHECKS):
            sizes = sized()
            if sizes in before:
                self.correction = between(used, limit)  # what the last two say leads from one to the other and back
                sizes = sized()
            if sizes in before:
                break
            before.append(sizes)
            predicted, cut = self(sizes), slice(program, ranking.keep(sizes))
            measured = self.measured(cut)
            used.append((self.correction, measured))
            self.checks.append((predicted, measured))
            self.correction *= measured / predicted
            tried.append((measured, cut))
            free = measured <= limit and predicted < limit * (1 - WRONG)  # other limits or the sizes hold it there
            if free or abs(measured / limit - 1) <= CLOSE:
                break
        self.found, cut = min(tried, key=lambda found: abs(found[0] / limit - 1))
        if self.found > limit * (1 + WRONG):
            seen = ", ".join(f"{measured:.4g} for {predicted:.4g}" for predicted, measured in self.checks)
            why = f"after {len(tried)} tries it measures {self.found:.4g} ms and not {limit:.4g}; {seen} predicted"
            hint = "measure on a machine that is otherwise idle, or make a new latency table"
            raise GraphError("latency_ms was not met", why=why, hint=hint)
        return cut

    def measured(self, program: Program) -> float:
        """What a program takes, measured beside the original: whatever slows both down now is not its own."""
        before, after = whole_ms([self.original, program], self.dims, threads=self.table.threads)
        return after / before * self.first_ms

    def line(self) -> str:
        """What is said of it."""
        asked, predicted, found = (f"{ms / self.first_ms:.2%}" for ms in (self.limit, self._predicted(), self.found))
        return f"latency_ms: {asked} of {self.first_ms:.4g} ms asked, {predicted} predicted, {found} measured"

    def _predicted(self) -> float:
        return next(predicted for predicted, measured in self.checks if measured == self.found)

    def to_dict(self) -> dict[str, Any]:
        """For the report: milliseconds before, asked, predicted and measured, and what was tried on the way."""
        figures = {"before_ms": self.first_ms, "asked_ms": self.limit, "predicted_ms": self._predicted()}
        checks = [{"predicted_ms": predicted, "measured_ms": measured} for predicted, measured in self.checks]
        return {**figures, "measured_ms": self.found, "threads": self.table.threads, "checks": checks}


@dataclass(frozen=True)
class Meant:
    """What a latency is meant for.

    Attributes:
        table: where the latency table is kept; in the context's folder if None.
        threads: within one op.
        dims: sizes of dynamic dims by name.
    """

    table: str | None
    threads: int
    dims: Mapping[str, int]


@contextlib.contextmanager
def clock(program: Program, axes: Collection[str], context: Context, title: str, meant: Meant) -> Iterator[Clock]:
    """Measure a program whole, and its blocks at many sizes of some axes.

    Args:
        program: before anything is cut.
        axes: the names of those that will be cut.
        context: of the pass.
        title: for progress.
        meant: what for; what the table has is not measured again.

    Raises:
        GraphError: the table is of another machine, or something cannot be measured.
    """
    default = context.run_dir / "latency_table.json" if context.run_dir is not None else None
    place = Path(meant.table) if meant.table else default
    table = open_table(place, meant.threads)

    def keep() -> None:
        if place is not None:
            save_table(table, place)

    def measure(jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Timing]]]:
        return time_blocks(
            jobs, meant.threads, progress=lambda done, count: context.progress(done, count, f"{title}: latency")
        )

    blocks = table.take_apart(program, meant.dims)
    dims = blocks.numbers.dims
    table.extend([blocks], measure=measure, keep=keep)
    samples = sized_at_random(program, axes, SAMPLES, lambda cut: table.take_apart(cut, dims), context.seed)
    table.extend(samples, most=SAMPLES, measure=measure, keep=keep)
    with tempfile.TemporaryDirectory() as folder:
        original = write_whole(program, Path(folder) / "original.onnx")
        first = whole_ms([original], dims, threads=meant.threads)[0]
        yield Clock(table, blocks, dims, original, first, first / table.predict(blocks).ms)


def between(used: Sequence[tuple[float, float]], limit: float) -> float:
    """The middle of the corrections that led to something too slow and to something fast enough; the last, if none did.

    Args:
        used: corrections, and the milliseconds of what was cut by them.
        limit: milliseconds.
    """
    slow = max((correction for correction, ms in used if ms > limit), default=used[-1][0])
    fast = min((correction for correction, ms in used if ms <= limit), default=used[-1][0])
    return math.sqrt(slow * fast)


def paying(axis: Axis, allowed: Allowed, latency: Callable[[Mapping[Axis, int]], float]) -> tuple[int, ...]:
    """The sizes of an axis at which what is removed is time as well.

    Kernels compute some channels at once, and up to the next multiple of those a channel costs nothing.
    """
    step = math.lcm(allowed.multiple, grid(axis.size))
    while axis.size > step * LEVELS:
        step *= 2
    least = allowed.size(axis.size, allowed.least)
    sizes = [*range(-(-least // step) * step, axis.size, step), axis.size]
    times = [latency({axis: size}) for size in sizes]
    if len(sizes) < 3:
        return tuple(sizes)
    saved = [0.0, *(larger - own for own, larger in itertools.pairwise(times))]  # by each, against the next
    beside = [saved[2], *saved[1:]]
    kept = [size for size, own, other in zip(sizes, saved[1:], beside, strict=False) if own > PAYS * (own + other)]
    return (*kept, axis.size)
