"""Accuracy on Fashion-MNIST of a pruned network that learns from what it was, by every loss.

    python -m benchmarks.quality.fashion_mnist_distill [--seeds N] [--jobs N] [--out DIR]

The network of fashion_mnist (trained once, and kept in OUT) is pruned to a quarter of its MACs. What
is left is trained by plain fine-tuning and by each loss of distillation beside cross-entropy: the same
steps for all, the same images, order and shifts for the same seed, the last weights kept. Then
fine-tuning and kl are trained for longer, on more images. The accuracy is that on the 10,000 official
test images, which nothing was chosen by: rates and temperatures come from a small search on training
images. What is known is kept in OUT/fashion_mnist_distill.jsonl, so an interrupted run goes on.
Needs the Debian package dataset-fashion-mnist.
Exit code 1 if, in the mean of the seeds of the long training, kl is not better than fine-tuning, or
is more than a point below the whole network.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from graphc.passes import Distill, Finetune, PruneFilters
from rich.console import Console

import graphc
from benchmarks.quality.fashion import Batches, Images, ResNet, accuracy, arguments, given, load, read, teacher
from benchmarks.quality.study import conclude, outcomes
from benchmarks.soundness import macs_of
from graphc.measure.environment import environment

Terms = tuple[dict[str, Any], ...]

SHARE = 0.25
RATE = 0.02
LIMIT = 0.01
"""The greatest drop from the whole network."""
CROSS_ENTROPY = {"type": "cross-entropy"}
PLAIN = {**CROSS_ENTROPY, "weight": 0.1}
KL: Terms = ({"type": "kl", "temperature": 2.0, "weight": 0.9}, PLAIN)
HINT = {"type": "hint", "pairs": "auto"}
RKD: Terms = (
    {"type": "rkd-distance", "student": "mean", "weight": 25.0},
    {"type": "rkd-angle", "student": "mean", "weight": 50.0},
)
ROWS: Mapping[str, Terms] = {
    "finetune": (CROSS_ENTROPY,),
    "kl": KL,
    "logits-mse": ({"type": "logits-mse", "weight": 0.9}, PLAIN),
    "dkd": ({"type": "dkd", "temperature": 4.0, "alpha": 1.0, "beta": 2.0}, CROSS_ENTROPY),
    "hint": (HINT, CROSS_ENTROPY),
    "cosine": ({"type": "cosine", "pairs": "auto"}, CROSS_ENTROPY),
    "rkd-distance": (RKD[0], CROSS_ENTROPY),
    "rkd-angle": (RKD[1], CROSS_ENTROPY),
    "similarity": ({"type": "similarity", "student": "blocks.5", "weight": 3000.0}, CROSS_ENTROPY),
    "attention-transfer": ({"type": "attention-transfer", "pairs": "auto", "weight": 500.0}, CROSS_ENTROPY),
    "rkd": (*RKD, CROSS_ENTROPY),
    "kl + hint": (*KL, HINT),
}
"""What is added up, with the weights of the papers.

kl 0.9 beside 0.1 of the labels, the temperature by search (Hinton et al. 2015, weights of Tian et al. 2020);
logits-mse likewise (Ba and Caruana 2014 take it alone); dkd 1 and 2 of Zhao et al. 2022 for small ResNets;
hint and cosine 1 for each block (Romero et al. 2015; Sanh et al. 2019); rkd 25 and 50 on what the classifier
reads (Park et al. 2019); similarity 3000 on the last block (Tung and Mori 2019); attention-transfer 1000 a
stage (Zagoruyko and Komodakis 2017), 500 for each of its two blocks.
"""
LONG = ("finetune", "kl")
COLUMNS = ["training", "losses and weights", "images", "epochs", "accuracy", "spread", "drop", "seconds"]


@dataclass(frozen=True)
class Cell:
    """One row of the table, a length of training, and a seed."""

    training: str
    images: int
    epochs: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of it: shares of MACs and parameters, accuracy, seconds of the processor for pruning and training."""

    macs: float
    params: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Setting:
    """What all cells have in common."""

    teacher: Path
    folder: Path
    rate: float = RATE


def run(cell: Cell, setting: Setting) -> Outcome:
    """The outcome on the real images: the seed draws those to train on."""
    torch.set_num_threads(1)
    images = drawn(read(setting.folder, "train"), cell)
    return outcome(cell, load(setting.teacher), images, read(setting.folder, "t10k"), setting)


def drawn(images: Images, cell: Cell) -> Images:
    """Those that a cell trains on."""
    x, y = images
    picked = torch.randperm(len(x), generator=torch.Generator().manual_seed(cell.seed))[: cell.images]
    return x[picked], y[picked]


def outcome(cell: Cell, model: ResNet, images: Images, test: Images, setting: Setting) -> Outcome:
    """Prune, train, take the accuracy, on given data."""
    example = images[0][:4]
    start = time.process_time()
    program = compressed(cell, model, images, setting.rate)
    seconds = time.process_time() - start
    before, after = ((macs_of(p, example), sum(q.numel() for q in p.parameters())) for p in (model, program))
    return Outcome(after[0] / before[0], after[1] / before[1], accuracy(program, test), seconds)


def compressed(cell: Cell, model: ResNet, images: Images, rate: float = RATE) -> graphc.Program:
    """What is left of the network, trained."""
    prune = PruneFilters(constraints={"macs": f"{SHARE:%}"}, ranking="global", importance="l1")
    program = graphc.capture(model, (images[0][:4].clone(),), dynamic={"x": {0: "batch"}})
    data = {"train": Batches(images)}
    return graphc.compile(program, passes=[prune, training(cell, rate)], data=data, seed=cell.seed).program


def training(cell: Cell, rate: float) -> Finetune | Distill:
    """The pass: SGD with momentum and a cosine schedule."""
    options: dict[str, Any] = {
        "losses": ROWS[cell.training],
        "epochs": cell.epochs,
        "optimizer": "sgd",
        "optimizer_options": {"momentum": 0.9, "nesterov": True},
        "learning_rate": rate,
        "weight_decay": 5e-4,
        "keep": "last",
        "log": None,
    }
    return Finetune(**options) if cell.training == "finetune" else Distill(**options)


def cells(seeds: int, short: tuple[int, int], long: tuple[int, int]) -> Iterator[Cell]:
    """All of them, seed by seed, the claims' first; lengths are images and epochs."""
    for seed in range(seeds):
        yield from (Cell(name, *long, seed) for name in LONG)
        yield from (Cell(name, *short, seed) for name in ROWS)


def rows(found: Mapping[Cell, Outcome], whole: float) -> list[list[str]]:
    """A line a row and length, best first: means over the seeds, and the spread (standard deviation)."""
    groups: dict[tuple[str, int, int], list[Outcome]] = {}
    for cell, one in found.items():
        groups.setdefault((cell.training, cell.images, cell.epochs), []).append(one)
    made = []
    for (name, images, epochs), all_ in sorted(groups.items(), key=lambda g: (-g[0][1] * g[0][2], -_mean(g[1]))):
        spread = statistics.pstdev(one.accuracy for one in all_)
        mean, seconds = _mean(all_), statistics.mean(one.seconds for one in all_)
        figures = [f"{mean:.2%}", f"{spread:.2%}", f"{100 * (whole - mean):.2f}", f"{seconds:.0f}"]
        made.append([name, weights(ROWS[name]), f"{images:,}", str(epochs), *figures])
    return made


def weights(terms: Terms) -> str:
    """Losses with their weights and options, in short: ``0.9 kl (temperature 4.0) + 0.1 cross-entropy``."""
    return " + ".join(map(_weight, terms))


def _weight(term: Mapping[str, Any]) -> str:
    more = ", ".join(f"{key} {value}" for key, value in term.items() if key not in ("type", "weight"))
    return f"{term.get('weight', 1):g} {term['type']}" + (f" ({more})" if more else "")


def _mean(outcomes: Sequence[Outcome]) -> float:
    return statistics.mean(one.accuracy for one in outcomes)


def claims(found: Mapping[Cell, Outcome], long: tuple[int, int], whole: float) -> dict[str, bool]:
    """That kl is better than fine-tuning of the same length, and how far below the whole network it is."""
    plain, kl = (
        _mean([one for cell, one in found.items() if (cell.training, cell.images, cell.epochs) == (name, *long)])
        for name in LONG
    )
    return {
        f"kl {kl:.2%} is better than fine-tuning {plain:.2%}": kl > plain,
        f"kl is {100 * (whole - kl):.2f} points below the whole network, at most {100 * LIMIT:.1f}": whole - kl
        <= LIMIT,
    }


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=6_400, help="training images of the short training")
    parser.add_argument("--epochs", type=int, default=1, help="times that they are gone through")
    parser.add_argument("--long-images", type=int, default=40_000, help="training images of the long training")
    parser.add_argument("--long-epochs", type=int, default=2)
    options = given(parser)
    console = Console(width=160)
    short, long = (options.images, options.epochs), (options.long_images, options.long_epochs)
    console.print(environment(), f"(images, epochs): {short}, {long}; seeds: {[*range(options.seeds)]}")
    setting = Setting(options.out / "fashion_resnet.pt", options.data)
    whole = teacher(setting.teacher, options.data, options.teacher_epochs, console)
    file = options.out / "fashion_mnist_distill.jsonl"
    todo = cells(options.seeds, short, long)
    found = outcomes(todo, partial(run, setting=setting), (Cell, Outcome), file, options.jobs, console)
    left = next(iter(found.values()))
    notes = [
        f"the whole network: {whole:.2%}; left of it: {left.macs:.1%} of MACs, {left.params:.1%} of parameters",
        f"SGD, learning rate {setting.rate}, batches of 128; drop in points; seconds of the processor, a seed",
    ]
    judged = claims(found, long, whole)
    return conclude("fashion_mnist_distill", COLUMNS, rows(found, whole), notes, judged, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
