"""Latency tables: predicted against measured latency of networks that the table has never seen whole.

    pip install --no-deps ofa==0.1.0.post202307202001
    python -m benchmarks.latency_table --out benchmarks/results

20 random sub-networks of OFAMobileNetV3 (by its own ``get_active_subnet(preserve_weight=True)``) and 10 ResNet-50s
pruned at random ratios by random importance. A table learns of blocks from other networks of the same kind, drawn
with another seed, of one block of each kind that these lack, and is scaled by three of those measured whole. Then the
networks are predicted twice: with blocks of unseen sizes interpolated, and after each distinct block was measured.
onnxruntime, CPU, batch 1, one thread; milliseconds are processor time of that thread, so that other processes do not
count. Exit code 1 if the median error is above 7 % or Spearman's rank correlation below 0.95 in a row where every block
is measured.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphc.passes import PruneFilters
from rich.console import Console

import graphc
from benchmarks.quality.study import conclude
from graphc.ir.program import Program
from graphc.measure.blocks import Blocks
from graphc.measure.environment import environment
from graphc.measure.isolated import time_blocks
from graphc.measure.latency_table import LatencyTable
from graphc.measure.table_file import open_table, save_table
from graphc.measure.whole import whole_ms
from graphc.pipeline.base import Context

PACKAGE = "ofa==0.1.0.post202307202001"
MOST_ERROR, LEAST_SPEARMAN = 7.0, 0.95
COLUMNS = ("networks", "count", "blocks", "interpolated", "ms", "median error", "largest", "Spearman")
SEEN, UNSEEN = 1, 0
"""Seeds of the networks that the table learns from, and of those that are predicted."""
SCALED_BY = 3
PIXELS = 224


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        name: in the table.
        draw: makes so many from a seed.
        count, learned: how many are predicted, and how many others the table learns from.
    """

    name: str
    draw: Callable[[int, int], list[Program]]
    count: int
    learned: int


@dataclass(frozen=True)
class Row:
    """Predicted and measured milliseconds of some networks."""

    name: str
    blocks: int
    interpolated: int
    predicted: Sequence[float]
    measured: Sequence[float]

    @property
    def errors(self) -> list[float]:
        """Of each, in per cent of what was measured."""
        return [100 * abs(p / m - 1) for p, m in zip(self.predicted, self.measured, strict=True)]

    @property
    def spearman(self) -> float:
        """Correlation of the ranks."""
        ranks = [np.argsort(np.argsort(values)) for values in (self.predicted, self.measured)]
        return float(np.corrcoef(ranks)[0, 1])

    def cells(self) -> list[str]:
        """As the table shows it."""
        share = f"{100 * self.interpolated / self.blocks:.0f} %"
        span = f"{min(self.measured):.1f} to {max(self.measured):.1f}"
        errors = (f"{np.median(self.errors):.1f} %", f"{max(self.errors):.1f} %")
        return [self.name, str(len(self.measured)), str(self.blocks), share, span, *errors, f"{self.spearman:.3f}"]


def captured(model: torch.nn.Module) -> Program:
    """A program of one image."""
    return graphc.capture(model.eval(), (torch.randn(1, 3, PIXELS, PIXELS),), dynamic={})


def sub_networks(count: int, seed: int) -> list[Program]:
    """Random sub-networks of OFAMobileNetV3, as its own package makes them."""
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3

    torch.manual_seed(0)
    choices = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    net = OFAMobileNetV3(n_classes=1000, dropout_rate=0, width_mult=1.0, **choices).eval()
    random.seed(seed)
    found = []
    for _ in range(count):
        net.sample_active_subnet()
        found.append(captured(net.get_active_subnet(preserve_weight=True)))
    return found


def pruned(count: int, seed: int) -> list[Program]:
    """ResNet-50s, each pruned at a random ratio."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    program = captured(resnet50())
    draw = random.Random(seed)
    passes = [PruneFilters(pruning_ratio=draw.uniform(0.1, 0.7), importance="random") for _ in range(count)]
    return [p.run(program, Context(program, seed=100 * seed + i)) for i, p in enumerate(passes)]


KINDS = {
    "ofa": Kind("sub-networks of OFAMobileNetV3", sub_networks, 20, 6),
    "resnet50": Kind("pruned ResNet-50", pruned, 10, 4),
}


def whole_of(programs: Sequence[Program], place: Path, repeat: int, console: Console) -> list[float]:
    """Milliseconds of each, measured in turns, or read if they were measured before."""
    if not place.exists():
        console.print("measuring whole networks")
        place.write_text(json.dumps(whole_ms(programs, warmup=3, repeat=repeat)), encoding="utf-8")
    found: list[float] = json.loads(place.read_text(encoding="utf-8"))
    return found


def learn(
    table: LatencyTable,
    networks: Sequence[Blocks],
    keep: Callable[[], object],
    console: Console,
    most: int | None = None,
) -> None:
    """Measure blocks, at most so many of a kind, and say how many there are."""

    def measure(jobs: Any) -> Any:
        return time_blocks(jobs, table.threads, progress=lambda done, count: console.print(f"{done} of {count} blocks"))

    table.extend(networks, most=most, measure=measure, keep=keep)


def rows_of(kind: Kind, work: Path, repeat: int, console: Console) -> list[Row]:
    """Predict the networks of a kind, before and after their own blocks are measured."""
    place = work / f"{kind.name.replace(' ', '_')}.json"
    table = open_table(place)

    def keep() -> None:
        save_table(table, place)

    seen, unseen = kind.draw(kind.learned, SEEN), kind.draw(kind.count, UNSEEN)
    apart, own = ([table.take_apart(p) for p in programs] for programs in (seen, unseen))
    if not table.wholes:
        learn(table, apart, keep, console)
    learn(table, own, keep, console, most=1)
    whole = whole_of([*seen[:SCALED_BY], *unseen], place.with_suffix(".whole.json"), repeat, console)
    for blocks, measured in zip(apart, whole[:SCALED_BY], strict=False):
        table.calibrate(blocks, measured)
    keep()
    first = row_of(table, f"{kind.name}, unseen", own, whole[SCALED_BY:])
    learn(table, own, keep, console)
    return [first, row_of(table, f"{kind.name}, each block measured", own, whole[SCALED_BY:])]


def row_of(table: LatencyTable, name: str, networks: Sequence[Blocks], measured: Sequence[float]) -> Row:
    """Predicted and measured."""
    found = [table.predict(blocks) for blocks in networks]
    blocks, interpolated = sum(p.blocks for p in found), sum(p.interpolated for p in found)
    return Row(name, blocks, interpolated, [p.ms for p in found], list(measured))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--work", type=Path, default=Path("latency_tables"), help="where tables are kept")
    parser.add_argument("--repeat", type=int, default=20, help="timed runs of whole networks")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    console = Console()
    rows = [row for name in given.kinds for row in rows_of(KINDS[name], given.work, given.repeat, console)]
    for row in rows:
        pairs = ", ".join(f"{p:.2f}/{m:.2f}" for p, m in zip(row.predicted, row.measured, strict=True))
        console.print(f"{row.name}: predicted/measured {pairs}", markup=False)
    here = environment()
    notes = [
        f"{here['cpu']}, {here['platform']}, onnxruntime {here['versions']['onnxruntime']}, torch "
        f"{here['versions']['torch']}, 1 thread, batch 1, {PIXELS} px; seeds {SEEN} (learned from) and {UNSEEN} "
        f"(predicted); medians of {given.repeat} runs in turns, of processor time; {PACKAGE}; "
        "`python -m benchmarks.latency_table`",
        "interpolated: blocks whose sizes the table has not; scaled by three networks that are not among these.",
    ]
    claims = {
        f"{row.name}: median error at most {MOST_ERROR:g} %, Spearman at least {LEAST_SPEARMAN}": bool(
            np.median(row.errors) <= MOST_ERROR and row.spearman >= LEAST_SPEARMAN
        )
        for row in rows
        if not row.interpolated
    }
    cells = [row.cells() for row in rows]
    return conclude("latency_table", COLUMNS, cells, notes, claims, given.out, console)


if __name__ == "__main__":
    sys.exit(main())
