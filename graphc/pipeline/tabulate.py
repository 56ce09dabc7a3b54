"""Making a latency table of some programs: their blocks, other sizes of their axes, and they themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.ir.program import Program
from graphc.measure.cover import sized_at_random
from graphc.measure.isolated import Job, Timing, time_blocks
from graphc.measure.latency_table import Prediction
from graphc.measure.table_file import open_table, save_table
from graphc.measure.whole import whole_ms

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Tabulated:
    """What came of it.

    Attributes:
        path: of the table.
        machine: that it holds for.
        threads: within one op.
        measured: blocks that were measured now.
        known: blocks that the table has.
        scale: what programs take as a whole, in units of the sum of their blocks.
        programs: by name, what each is predicted to take, and what it took, or None if it was not run.
    """

    path: Path
    machine: Mapping[str, Any]
    threads: int
    measured: int
    known: int
    scale: float
    programs: Mapping[str, tuple[Prediction, float | None]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = {
            name: {
                "predicted_ms": found.ms,
                "measured_ms": ms,
                "blocks": found.blocks,
                "interpolated": found.interpolated,
            }
            for name, (found, ms) in self.programs.items()
        }
        return {**vars(self), "path": str(self.path), "machine": dict(self.machine), "programs": rows}


def tabulate(
    programs: Mapping[str, Program],
    path: Path,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int = 1,
    samples: int = 16,
    whole: bool = True,
    progress: Progress = lambda done, count, text: None,
) -> Tabulated:
    """Measure what a table does not have yet, and predict the programs by it.

    Args:
        programs: by name.
        path: of the table, which is kept after every few blocks: an interrupted measurement goes on where it was.
        dims: sizes of dynamic dims by name; the batch is 1 unless given, others are those of the examples.
        threads: within one op.
        samples: other sizes of free axes at which blocks of each kind are measured; 0 for none.
        whole: also run the programs, by which sums of blocks become latencies.
        progress: told how many blocks are done.

    Raises:
        GraphError: the table is of another machine or runtime, or a program cannot be measured.
    """
    table = open_table(path, threads)

    def keep() -> None:
        save_table(table, path)

    def measure(jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Timing]]]:
        return time_blocks(jobs, threads, progress=lambda done, count: progress(done, count, "measuring blocks"))

    apart = {name: table.take_apart(program, dims) for name, program in programs.items()}
    measured = table.extend(list(apart.values()), measure=measure, keep=keep)
    for program in programs.values() if samples else ():
        others = sized_at_random(program, None, samples, lambda cut: table.take_apart(cut, dims))
        measured += table.extend(others, most=samples, measure=measure, keep=keep)
    took: list[float | None] = [None] * len(programs)
    if whole:
        progress(0, 0, "measuring whole programs")
        took = [*whole_ms(list(programs.values()), dims, threads=threads)]
        for blocks, ms in zip(apart.values(), took, strict=True):
            table.calibrate(blocks, ms or 0.0)
    keep()
    found = {name: (table.predict(blocks), ms) for (name, blocks), ms in zip(apart.items(), took, strict=True)}
    known = sum(map(len, table.timings.values()))
    return Tabulated(path, table.machine, threads, measured, known, table.scale, found)
