"""Latency tables: what each block of a program takes on this machine, by which other programs are predicted.

A table grows with every program that is measured: blocks that it has are not measured again, those of other sizes
are interpolated. Times are of one run on an undisturbed machine.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis
from graphc.errors import GraphError
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.ir.quantized import is_quantised
from graphc.measure.blocks import Block, Blocks, find_blocks
from graphc.measure.interpolation import Curve, kernel_class
from graphc.measure.isolated import Job, Timing, time_blocks

Key = tuple[tuple[int, ...], tuple[bool, ...]]
"""Sizes, and which inputs have their channels in blocks."""
Layouts = tuple[bool, ...]
Measure = Callable[[Sequence[Job]], Iterable[Sequence[tuple[Job, Timing]]]]
LEAST = 1e-4
"""Milliseconds that anything takes."""
ENOUGH = 3
"""Measurements to interpolate between; with fewer of the same kernel those of others are looked at."""


@dataclass(frozen=True)
class Prediction:
    """What a program will take.

    Attributes:
        ms: milliseconds of one run.
        ops: how many ops the runtime runs.
        blocks: how many blocks there are.
        interpolated: how many of them were not measured at these sizes.
    """

    ms: float
    ops: int
    blocks: int
    interpolated: int


@dataclass
class LatencyTable:
    """Measured times of blocks.

    Attributes:
        machine: processor, system and runtime that they hold for.
        threads: within one op.
        timings: by family, then by sizes and layouts.
        wholes: of programs that were measured whole, by what tells them apart: milliseconds of their blocks, and
            measured.
    """

    machine: Mapping[str, Any]
    threads: int = 1
    timings: dict[str, dict[Key, Timing]] = field(default_factory=dict)
    wholes: dict[str, tuple[float, float]] = field(default_factory=dict)
    _curves: dict[Any, Curve] = field(default_factory=dict, repr=False)
    _between: dict[Any, Timing] = field(default_factory=dict, repr=False)

    def take_apart(self, program: Program, dims: Mapping[str, int] | None = None) -> Blocks:
        """A program as blocks, to be measured or predicted.

        Args:
            program: masks of sparse training are made permanent; else as it is.
            dims: sizes of dynamic dims by name; the batch is 1 unless given, others are those of the example.

        Raises:
            GraphError: a name is not a dynamic dim of the program, or it computes in integers.
        """
        if is_quantised(program):
            why = "what onnxruntime makes of roundings depends on the ops on both sides, in other blocks"
            hint = "predict the program before it is quantised, or time its artifact with `graphc bench`"
            raise GraphError("quantised programs cannot be taken apart for a latency table", why=why, hint=hint)
        return find_blocks(make_permanent(program), dims)

    def extend(
        self,
        programs: Sequence[Blocks],
        *,
        most: int | None = None,
        measure: Measure | None = None,
        keep: Callable[[], object] = lambda: None,
    ) -> int:
        """Measure each block of some programs that the table does not have, and return how many that were.

        Args:
            programs: taken apart.
            most: leave out blocks of whose family so many are known.
            measure: how; by default onnxruntime runs them.
            keep: called after every lot, so that an interrupted measurement goes on where it was.

        Raises:
            GraphError: a block cannot be measured.
        """
        measure = measure or (lambda jobs: time_blocks(jobs, self.threads))
        count = 0
        while jobs := self._missing(programs, most):
            for lot in measure(jobs):
                for job, timing in lot:
                    known = self.timings.setdefault(job.block.family, {})
                    known[job.block.sizes(), job.layouts] = timing
                count += len(lot)
                self._curves.clear()
                self._between.clear()
                keep()
        return count

    def _missing(self, programs: Sequence[Blocks], most: int | None) -> list[Job]:
        """Blocks that are not measured; behind one of them, layouts are guessed until it is."""
        found: dict[tuple[str, Key], Job] = {}
        counts: dict[str, int] = {family: len(known) for family, known in self.timings.items()}

        for blocks in programs:

            def look_up(block: Block, layouts: Layouts, blocks: Blocks = blocks) -> Timing:
                sizes = block.sizes()
                timing = self.timings.get(block.family, {}).get((sizes, layouts))
                if timing is None and (most is None or counts.get(block.family, 0) < most):
                    if (block.family, (sizes, layouts)) not in found:
                        counts[block.family] = counts.get(block.family, 0) + 1
                    found.setdefault((block.family, (sizes, layouts)), Job(blocks, block, layouts))
                return timing or _guess(block)

            _walk(blocks, look_up)
        return list(found.values())

    def predict(self, blocks: Blocks, sizes: Mapping[Axis, int] | None = None) -> Prediction:
        """What a program will take, also with other sizes of some axes; runs nothing and takes milliseconds.

        Raises:
            GraphError: the table has nothing of some op; says of which.
        """
        timings: list[Timing] = []
        changes: dict[Node, float] = defaultdict(float)
        missing = 0

        def look_up(block: Block, layouts: Layouts) -> Timing:
            nonlocal missing
            at = block.sizes(sizes)
            timing = self.timings.get(block.family, {}).get((at, layouts))
            missing += timing is None
            timings.append(timing or self._interpolated(block, at, layouts))
            for node, ms in zip(block.inputs, timings[-1].reads_ms, strict=True):
                changes[node] = max(changes[node], ms)  # once for all that read it
            return timings[-1]

        _walk(blocks, look_up)
        total = sum(timing.ms for timing in timings) + sum(changes.values())
        ops = sum(timing.ops for timing in timings) + sum(ms > 0 for ms in changes.values())
        return Prediction(total * self.scale, ops, len(timings), missing)

    @property
    def scale(self) -> float:
        """What programs take as a whole, in units of the sum of their blocks."""
        return (
            statistics.median(measured / predicted for predicted, measured in self.wholes.values())
            if self.wholes
            else 1.0
        )

    def calibrate(self, blocks: Blocks, measured_ms: float) -> None:
        """Note what a program took as a whole; predictions are scaled by the median of all that were noted."""
        text = "\n".join(f"{block.family} {block.sizes()}" for block in blocks.blocks)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.wholes[name] = (self.predict(blocks).ms / self.scale, measured_ms)

    def _interpolated(self, block: Block, sizes: tuple[int, ...], layouts: Layouts) -> Timing:
        key = (block.family, sizes, layouts)
        if key not in self._between:
            self._between[key] = self._interpolate(block, sizes, layouts)
        return self._between[key]

    def _interpolate(self, block: Block, sizes: tuple[int, ...], layouts: Layouts) -> Timing:
        level, samples = self._samples(block, sizes, layouts)
        key = (block.family, level, kernel_class(block.family, sizes), layouts)
        if key not in self._curves:
            times = tuple(max(timing.ms, LEAST) for timing in samples.values())
            self._curves[key] = Curve(tuple(at for at, _ in samples), times)
        (nearest, _), like = min(samples.items(), key=lambda item: _distance(item[0][0], sizes))
        growth = zip(block.entries(sizes), block.entries(nearest), strict=True)
        reads = tuple(ms * own / other for ms, (own, other) in zip(like.reads_ms, growth, strict=True))
        return Timing(self._curves[key](sizes), like.ops, reads, like.blocked)

    def _samples(self, block: Block, sizes: tuple[int, ...], layouts: Layouts) -> tuple[int, dict[Key, Timing]]:
        """What to interpolate between: if there are enough, measurements of the same kernel in the same layout."""
        family = self.timings.get(block.family)
        if not family:
            raise GraphError(
                "the latency table has nothing of an op",
                where=block.nodes[0].name,
                why=f"none of its {len(self.timings)} families of blocks is {block.family}",
                hint="extend it by this program: `graphc latency-table`",
            )
        wanted = kernel_class(block.family, sizes)
        like = {key: t for key, t in family.items() if kernel_class(block.family, key[0]) == wanted}
        alike = {key: t for key, t in like.items() if key[1] == layouts}
        same = {key: t for key, t in family.items() if key[1] == layouts}
        levels = (alike, like, same, family)
        level = next((i for i, found in enumerate(levels) if len(found) >= ENOUGH), 3)
        return level, levels[level]


def _distance(there: Sequence[int], here: Sequence[int]) -> float:
    return sum(abs(a - b) / max(a, b) for a, b in zip(there, here, strict=True))


def _walk(blocks: Blocks, look_up: Callable[[Block, Layouts], Timing]) -> None:
    """Look blocks up in order, each with which of its inputs have their channels in blocks, as those before say."""
    blocked: dict[Node, bool] = {}
    for block in blocks.blocks:
        timing = look_up(block, tuple(blocked.get(node, False) for node in block.inputs))
        blocked.update(zip(block.outputs, timing.blocked, strict=True))


def _guess(block: Block) -> Timing:
    """A block of images is likely to give its result as convolutions do."""
    images = [_is_image(node) for node in block.outputs]
    read = any(_is_image(node) for node in block.inputs)
    return Timing(0.0, 0, (0.0,) * len(block.inputs), tuple(read and image for image in images))


def _is_image(node: Node) -> bool:
    value = node.meta["val"]
    return isinstance(value, torch.Tensor) and value.dim() == 4 and value.is_floating_point()
