"""Does the search of DARTS find a cell that is better than random ones? On scikit-learn's digits.

    python -m benchmarks.quality.darts_digits [--seeds N] [--random N] [--search-steps N] [--train-steps N] [--out DIR]

The search space is that of examples/darts_space.py. `search-darts` trains weights on half of the training images and
the architecture on the other half; `discretize` makes the network. Random genotypes are those of random architecture
parameters, by the same `discretize`. Then each network is trained alike from fresh weights, with the same seeds, steps
and images (all training images), and its accuracy on the test images is taken after the last step. What is known is
kept in OUT/darts_digits.jsonl, so an interrupted run goes on. Exit code 1 if the mean accuracy of the cell that was
found is not above the mean of the random ones.
"""

from __future__ import annotations

import statistics
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from graphc.passes import Discretize, Finetune, SearchDarts
from rich.console import Console
from torch.nn import Parameter

import graphc
from benchmarks.quality.study import conclude, outcomes
from examples.darts_space import Network
from examples.digits import eval_batches, first_half, second_half, train_batches
from graphc.ir.edit import rebuild
from graphc.measure.environment import environment

COLUMNS = ["genotype", "parameters", "accuracy", "lowest", "highest", "operations"]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Setting:
    """What all networks have in common."""

    search_steps: int = 600
    train_steps: int = 300
    width: int = 4
    steps: int = 2
    layers: int = 3


@dataclass(frozen=True)
class Cell:
    """A genotype, found (number 0) or random, and the seed of a training."""

    how: str
    number: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    genotype: str
    params: int
    accuracy: float


def fresh(seed: int, setting: Setting) -> Network:
    """A supernet of random weights."""
    torch.manual_seed(seed)
    sizes = {"width": setting.width, "layers": setting.layers, "steps": setting.steps, "multiplier": setting.steps}
    return Network(**sizes, channels=1).eval()


@cache
def supernet(setting: Setting) -> graphc.Program:
    """The supernet, captured once."""
    return graphc.capture(fresh(0, setting), (torch.zeros(4, 1, 8, 8),))


def tables(setting: Setting) -> list[str]:
    """Names of the architecture parameters."""
    return [name for name in supernet(setting).tensors() if name.startswith("alphas_")]


def with_weights(setting: Setting, seed: int, alphas: Tensors) -> graphc.Program:
    """The supernet with fresh weights and given architecture parameters."""
    state = fresh(seed, setting).state_dict()
    tensors = {
        name: Parameter(state[name]) if isinstance(value, Parameter) else state[name]
        for name, value in supernet(setting).tensors().items()
    }
    return rebuild(supernet(setting), tensors={**tensors, **{name: Parameter(value) for name, value in alphas.items()}})


@cache
def found(number: int, setting: Setting) -> Tensors:
    """The architecture parameters that the search ends with."""
    start = with_weights(setting, number, {name: fresh(number, setting).state_dict()[name] for name in tables(setting)})
    search = SearchDarts(steps=setting.search_steps, architecture_learning_rate=0.01)
    data = {"train": first_half, "validation": second_half}
    done = graphc.compile(start, passes=[search], data=data, seed=number)
    return {name: done.program.tensors()[name].detach() for name in tables(setting)}


def drawn(number: int, setting: Setting) -> Tensors:
    """Random architecture parameters."""
    generator = torch.Generator().manual_seed(number)
    return {name: torch.randn(supernet(setting).tensors()[name].shape, generator=generator) for name in tables(setting)}


def run(cell: Cell, setting: Setting) -> Outcome:
    """Discretise, train, take the accuracy."""
    torch.set_num_threads(1)
    alphas = found(cell.number, setting) if cell.how == "search-darts" else drawn(cell.number, setting)
    train = Finetune(steps=setting.train_steps, learning_rate=0.01, keep="last", evaluate_every=setting.train_steps)
    done = graphc.compile(
        with_weights(setting, 1000 + cell.seed, alphas),
        passes=[Discretize(), train],
        data={"train": train_batches, "eval": eval_batches},
        metric="accuracy",
        seed=cell.seed,
    )
    params = sum(p.numel() for p in done.program.parameters())
    return Outcome(done.report["passes"][0]["facts"]["genotype"], params, done.report["after"]["metric"])


def cells(random: int, seeds: int) -> list[Cell]:
    """The one that was found, and the random ones, each with all seeds."""
    kinds = [("search-darts", 0), *(("random", number) for number in range(random))]
    return [Cell(how, number, seed) for how, number in kinds for seed in range(seeds)]


def rows(known: Mapping[Cell, Outcome]) -> list[list[str]]:
    """A line a genotype: the mean accuracy over the seeds, and how far they are apart."""
    groups: dict[tuple[str, int], list[Outcome]] = {}
    for cell, outcome in known.items():
        groups.setdefault((cell.how, cell.number), []).append(outcome)
    made = []
    for (how, number), all_ in groups.items():
        share = [one.accuracy for one in all_]
        figures = [f"{value:.2%}" for value in (statistics.mean(share), min(share), max(share))]
        name = how if how == "search-darts" else f"{how} {number}"
        made.append([name, f"{all_[0].params:,}", *figures, all_[0].genotype])
    return made


def claims(known: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """Is the one that was found better than the mean of the random ones?"""
    share = {
        how: statistics.mean(outcome.accuracy for cell, outcome in known.items() if cell.how == how)
        for how in ("search-darts", "random")
    }
    count = len({cell.number for cell in known if cell.how == "random"})
    line = f"search-darts {share['search-darts']:.2%}, mean of {count} random genotypes {share['random']:.2%}"
    return {line: share["search-darts"] > share["random"]}


def main() -> int:
    """Print the table; 1 if the claim does not hold."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network")
    parser.add_argument("--random", type=int, default=5, help="random genotypes")
    parser.add_argument("--search-steps", type=int, default=Setting.search_steps)
    parser.add_argument("--train-steps", type=int, default=Setting.train_steps)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(options.search_steps, options.train_steps)
    console = Console(width=160)
    console.print(environment(), setting)
    work, file = partial(run, setting=setting), options.out / "darts_digits.jsonl"
    known = outcomes(cells(options.random, options.seeds), work, (Cell, Outcome), file, 1, console)
    notes = [
        f"{options.search_steps} steps of search, {options.train_steps} of training, {options.seeds} seeds",
        "both were chosen on training images: networks trained on one half of them, judged by the other",
    ]
    return conclude("darts_digits", COLUMNS, rows(known), notes, claims(known), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
