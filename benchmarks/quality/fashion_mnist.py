"""Accuracy after pruning on Fashion-MNIST, by every criterion, beside Torch-Pruning.

    python -m benchmarks.quality.fashion_mnist [--seeds N] [--jobs N] [--out DIR]

A residual network is trained once (and kept in OUT). Each tool prunes it to half and to a quarter of
its MACs with each of its criteria, all ranked globally; then both results get the same short
training, and the accuracy on the 10,000 official test images is taken, before it and after. The
seeds draw the calibration images and the order of training. What is known is kept in
OUT/fashion_mnist.jsonl, so an interrupted run goes on. Needs the Debian package dataset-fashion-mnist.
Exit code 1 if graphc's best is worse than the peer's best by more than the spread of the seeds.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from graphc.passes import PruneFilters
from rich.console import Console

import graphc
from benchmarks.quality.fashion import Images, Model, ResNet, accuracy, arguments, given, load, read, teacher, train
from benchmarks.quality.study import conclude, outcomes
from benchmarks.soundness import macs_of
from graphc.measure.environment import environment

OWN = "l1 l2 fpgm bn_scale lamp random taylor fisher activation gate".split()
THEIRS = "l1 l2 fpgm bn_scale lamp random taylor".split()
SHARES = (0.5, 0.25)
CALIBRATION = 512
STEPS = 100
"""In which Torch-Pruning approaches its greatest ratio."""
COLUMNS = ["tool", "importance", "MACs asked", "MACs", "params", "accuracy at once", "after training", "spread"]


@dataclass(frozen=True)
class Cell:
    """One tool, criterion, budget and seed."""

    tool: str
    importance: str
    share: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of it: shares of MACs and parameters, accuracy at once and after training."""

    macs: float
    params: float
    pruned: float
    tuned: float


@dataclass(frozen=True)
class Setting:
    """What all cells have in common."""

    teacher: Path
    folder: Path
    images: int
    epochs: int
    rate: float = 0.02


def run(cell: Cell, setting: Setting) -> Outcome:
    """Prune, take the accuracy, train, take it again."""
    torch.set_num_threads(1)
    torch.manual_seed(cell.seed)
    x, y = read(setting.folder, "train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(cell.seed))
    calibration = (x[order[:CALIBRATION]], y[order[:CALIBRATION]])
    tuning = (x[order[: setting.images]], y[order[: setting.images]])
    return outcome(cell, load(setting.teacher), calibration, tuning, read(setting.folder, "t10k"), setting)


def outcome(cell: Cell, model: ResNet, calibration: Images, tuning: Images, test: Images, setting: Setting) -> Outcome:
    """A cell's figures, on given data."""
    example = calibration[0][:1]
    before = macs_of(model, example), sum(p.numel() for p in model.parameters())
    pruned: Any
    if cell.tool == "graphc":
        pruned = by_graphc(model, cell, calibration)
        at_once = accuracy(pruned, test)
        training = graphc.set_training(pruned, True)
        train(training, training.parameters(), tuning, setting.epochs, setting.rate, cell.seed)
        tuned: Model = graphc.set_training(training, False)
    else:
        pruned = by_torch_pruning(model, cell, calibration)
        at_once = accuracy(pruned, test)
        train(pruned.train(), pruned.parameters(), tuning, setting.epochs, setting.rate, cell.seed)
        tuned = pruned.eval()
    macs, params = macs_of(tuned, example), sum(p.numel() for p in pruned.parameters())
    return Outcome(macs / before[0], params / before[1], at_once, accuracy(tuned, test))


def by_graphc(model: ResNet, cell: Cell, calibration: Images) -> graphc.Program:
    """A budget, solved exactly."""
    prune = PruneFilters(constraints={"macs": f"{cell.share:%}"}, ranking="global", importance=cell.importance)
    x, y = calibration
    batches = list(zip(x.split(128), y.split(128), strict=True))
    done = graphc.compile(model, (x[:4],), passes=[prune], data={"calibration": batches}, seed=cell.seed)
    return done.program


def by_torch_pruning(model: ResNet, cell: Cell, calibration: Images) -> ResNet:
    """Small steps until the budget is met, as its own examples do."""
    import torch_pruning as tp

    importance = {
        "l1": tp.importance.MagnitudeImportance(p=1),
        "l2": tp.importance.MagnitudeImportance(p=2),
        "fpgm": tp.importance.FPGMImportance(),
        "bn_scale": tp.importance.BNScaleImportance(),
        "lamp": tp.importance.LAMPImportance(),
        "random": tp.importance.RandomImportance(),
        "taylor": tp.importance.TaylorImportance(),
    }[cell.importance]
    x, y = calibration
    whole = macs_of(model, x[:1])
    pruner = tp.pruner.MetaPruner(
        model,
        x[:1],
        importance,
        global_pruning=True,
        pruning_ratio=0.95,
        iterative_steps=STEPS,
        ignored_layers=[model.fc],
    )
    for _ in range(STEPS):
        if cell.importance == "taylor":
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
        pruner.step()
        if macs_of(model, x[:1]) <= cell.share * whole:
            return model
    raise ValueError(f"{macs_of(model, x[:1]) / whole:.1%} of the MACs are left after {STEPS} steps")


def cells(seeds: int) -> Iterator[Cell]:
    """All of them, seed by seed."""
    for seed in range(seeds):
        for share in SHARES:
            yield from (Cell("graphc", name, share, seed) for name in OWN)
            yield from (Cell("torch-pruning", name, share, seed) for name in THEIRS)


def rows(found: dict[Cell, Outcome]) -> list[list[str]]:
    """A line a tool, criterion and budget: means over the seeds, and the spread (standard deviation) of the last."""
    groups: dict[tuple[str, str, float], list[Outcome]] = {}
    for cell, one in found.items():
        groups.setdefault((cell.tool, cell.importance, cell.share), []).append(one)
    made = []
    for (tool, importance, share), all_ in sorted(groups.items(), key=lambda g: (-g[0][2], -_tuned(g[1]))):
        means = [statistics.mean(getattr(o, name) for o in all_) for name in ("macs", "params", "pruned", "tuned")]
        spread = statistics.pstdev(o.tuned for o in all_)
        cells_ = [f"{means[0]:.1%}", f"{means[1]:.1%}", f"{means[2]:.2%}", f"{means[3]:.2%}", f"{spread:.2%}"]
        made.append([tool, importance, f"{share:.0%}", *cells_])
    return made


def _tuned(outcomes: Sequence[Outcome]) -> float:
    return statistics.mean(o.tuned for o in outcomes)


def claims(found: dict[Cell, Outcome]) -> dict[str, bool]:
    """For each budget the best of both, and whether ours is not worse by more than the spread of the seeds."""
    told: dict[str, bool] = {}
    for share in SHARES:
        best: dict[str, tuple[float, float, str]] = {}
        for tool in ("graphc", "torch-pruning"):
            groups: dict[str, list[float]] = {}
            for cell, one in found.items():
                if (cell.tool, cell.share) == (tool, share):
                    groups.setdefault(cell.importance, []).append(one.tuned)
            best[tool] = max((statistics.mean(v), statistics.pstdev(v), name) for name, v in groups.items())
        (ours, spread, name), (theirs, other, peer) = best["graphc"], best["torch-pruning"]
        line = f"{share:.0%} of the MACs: graphc {ours:.2%} ({name}), torch-pruning {theirs:.2%} ({peer})"
        told[line] = ours >= theirs - max(spread, other)
    return told


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=12_800, help="training images after pruning")
    parser.add_argument("--epochs", type=int, default=1, help="times that they are gone through")
    options = given(parser)
    console = Console(width=140)
    console.print(
        environment(), f"{options.images} images, {options.epochs} epochs after pruning, {options.seeds} seeds"
    )
    setting = Setting(options.out / "fashion_resnet.pt", options.data, options.images, options.epochs)
    whole = f"the whole network: {teacher(setting.teacher, options.data, options.teacher_epochs, console):.2%}"
    console.print(whole)
    file = options.out / "fashion_mnist.jsonl"
    work = partial(run, setting=setting)
    found = outcomes(cells(options.seeds), work, (Cell, Outcome), file, options.jobs, console)
    return conclude("fashion_mnist", COLUMNS, rows(found), [whole], claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
