"""A plain network made elastic by progressive shrinking, searched for latency, beside uniform slimming. Fashion-MNIST.

    python -m benchmarks.quality.fashion_mnist_shrinking [--seeds N] [--out DIR]

A plain network of four convolutions is trained on images of 14 x 14. Then every method has the same number of steps
more for each latency that is asked for: 75, 50 and 35 % of the whole network's by onnxruntime, one thread, batch 8.

- elastic: nearly half of the steps go to `progressive-shrinking` of kernels and widths, once for all latencies.
  Sub-networks are searched as `graphc search` does it, NSGA-II by the likelihood of images held out of training:
  latency is predicted by a table and measured in the end, batch norms are recalibrated. The found one has the
  other steps by itself.
- uniform: `prune-filters` takes the same share of every layer, as large as the latency asks for; all steps follow.

The accuracy is that on the 10,000 official test images after the last step; nothing else looks at these. What is known
is kept in OUT/fashion_mnist_shrinking.jsonl, so an interrupted run goes on. Needs the Debian package
dataset-fashion-mnist. Exit code 1 if a measured latency is more than 5 % from what was asked for, or if the mean
accuracy of the elastic networks is below that of the uniform ones at one of the latencies.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from graphc.passes import Finetune, PruneFilters, Recalibrate, SliceElastic
from graphc.passes.elastic import find_space, subnetwork
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import graphc
from benchmarks.quality.fashion import FOLDER, PACKAGE, Images, accuracy, read
from benchmarks.quality.study import conclude, outcomes
from graphc.measure.cost import cost
from graphc.measure.environment import environment
from graphc.measure.latency_table import LatencyTable
from graphc.measure.table_file import open_table, save_table
from graphc.measure.whole import whole_ms
from graphc.pipeline.recipe import Recipe, read_recipe
from graphc.pipeline.search import search
from graphc.pipeline.search_result import Candidate

LATENCIES = (0.75, 0.5, 0.35)
BATCH = 8
"""Of images whose latency is asked for."""
NEAR = 0.05
"""How far a latency may be from what was asked for."""
SHRINK: Mapping[str, Any] = {"kernel": (5, 3), "width": (1.0, 0.75, 0.5, 0.25), "round_to": 8}
EIGHTS: Mapping[str, Any] = {"round_to": SHRINK["round_to"]}
Batches = list[tuple[Tensor, ...]]
COLUMNS = ["latency asked", "method", "latency", "MACs", "params", "accuracy", "lowest", "highest"]


@dataclass(frozen=True)
class Setting:
    """What all cells have in common.

    Attributes:
        folder: has the images.
        table: where the latency table is kept.
        first: steps in which the whole network is trained.
        steps: that every method has after that, for each latency.
        own: of these, steps of a found sub-network by itself.
        rate: the greatest learning rate.
        images: for training, with those held out.
        held_out: images, of these, that choose among sub-networks.
        trials: of each search.
    """

    folder: Path
    table: Path
    first: int = 400
    steps: int = 3_000
    own: int = 1_500
    rate: float = 2e-3
    images: int = 35_000
    held_out: int = 5_000
    trials: int = 120


@dataclass(frozen=True)
class Cell:
    """A method, a latency as a share of the whole network's, and a seed."""

    method: str
    share: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """Shares of latency, MACs and parameters, and accuracy."""

    latency: float
    macs: float
    params: float
    accuracy: float


class Net(nn.Module):
    """Four convolutions with batch norms, none with anything beside it; 77 k parameters."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(1, 16, 5), (16, 32, 5), (32, 48, 3), (48, 64, 3)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, padding=k // 2, bias=False) for a, b, k in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _ in sizes)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, 1, 14, 14]`` to logits ``[n, 10]``."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            x = F.max_pool2d(x, 2) if i in (0, 2) else x
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@cache
def half(folder: Path, kind: str, count: int | None = None) -> Images:
    """The first images of a kind at half their size."""
    x, y = read(folder, kind)
    return F.avg_pool2d(x[:count], 2), y[:count]


def calibration(folder: str, images: int, held_out: int) -> Batches:
    """1,024 images of training, for statistics of batch norms."""
    x, y = (v[held_out : held_out + 1024].split(256) for v in half(Path(folder), "train", images))
    return list(zip(x, y, strict=True))


def held_out(folder: str, images: int, held_out: int) -> Batches:
    """Those that choose among sub-networks."""
    return [tuple(v[:held_out] for v in half(Path(folder), "train", images))]


def likelihood(program: graphc.Program, batches: Batches) -> float:
    """The mean logarithm of what the program gives the labels, which tells more of few images than accuracy does."""
    with torch.no_grad():
        found = [F.cross_entropy(program(x), y, reduction="none") for x, y in batches]
    return -float(torch.cat(found).mean())


def data(setting: Setting) -> dict[str, Any]:
    """Loaders: for training, and some of the same images for statistics of batch norms."""
    x, y = half(setting.folder, "train", setting.images)
    own = TensorDataset(x[setting.held_out :], y[setting.held_out :])
    some = calibration(str(setting.folder), setting.images, setting.held_out)
    return {"train": lambda: DataLoader(own, 128, shuffle=True, drop_last=True), "calibration": lambda: some}


def trained(program: graphc.Program, steps: int, seed: int, setting: Setting, *during: Any) -> graphc.Program:
    """The program after some steps."""
    train = Finetune(steps=steps, learning_rate=setting.rate, warmup=0.1, during=during)
    return graphc.compile(program, passes=[train], data=data(setting), seed=seed).program


@cache
def whole(seed: int, setting: Setting) -> graphc.Program:
    """The whole network, trained."""
    torch.manual_seed(seed)
    program = graphc.capture(Net().eval(), (torch.randn(3, 1, 14, 14),))
    return trained(program, setting.first, seed, setting)


@cache
def elastic(seed: int, setting: Setting) -> graphc.Program:
    """The network whose sub-networks are trained too."""
    lesson = {"type": "kl", "temperature": 1.0}
    hook = {"type": "progressive-shrinking", **SHRINK, "subnetworks": 2, "inplace_distillation": [lesson]}
    return trained(whole(seed, setting), setting.steps - setting.own, seed, setting, hook)


@cache
def table(setting: Setting) -> tuple[LatencyTable, graphc.Program, dict[float, graphc.Program]]:
    """The latency table; the whole network, and random sub-networks by what it says that they take of its latency.

    Their weights, which do not matter to it, are random.
    """
    torch.manual_seed(0)
    program = graphc.capture(Net().eval(), (torch.randn(3, 1, 14, 14),))
    space, draw = find_space(program, **SHRINK), torch.Generator().manual_seed(0)
    some = [program, *(subnetwork(program, space, space.sample(draw)) for _ in range(16))]
    found = open_table(setting.table)
    apart = [found.take_apart(one, {"batch": BATCH}) for one in some]
    found.extend(apart, most=16, keep=lambda: save_table(found, setting.table))
    first, *others = (found.predict(one).ms for one in apart)
    return found, program, {ms / first: one for ms, one in zip(others, some[1:], strict=True)}


@cache
def off(share: float, setting: Setting) -> float:
    """What networks of about a latency are measured to take, in units of what the table says."""
    _, program, some = table(setting)
    nearest = sorted(some, key=lambda told: abs(told / share - 1))[:4]
    return statistics.median(measured(some[told], program) / told for told in nearest)


def measured(program: graphc.Program, first: graphc.Program) -> float:
    """What a program takes, of what the whole one takes; timed in turns."""
    whole, own = whole_ms([first, program], {"batch": BATCH})
    return own / whole


def recipe(model: Path, share: float, seed: int, setting: Setting) -> Recipe:
    """That of a search for the best sub-network within a latency."""
    limit = share * (1 + NEAR / 2) / off(share, setting)
    this = "benchmarks.quality.fashion_mnist_shrinking"
    own = {"folder": str(setting.folder), "images": setting.images, "held_out": setting.held_out}
    choices = {"kernel": {"each": list(SHRINK["kernel"])}, "width": {"each": list(SHRINK["width"])}}
    return read_recipe(
        {
            "model": {"target": str(model)},
            "data": {
                "calibration": {"target": f"{this}:calibration", "kwargs": own},
                "eval": {"target": f"{this}:held_out", "kwargs": own},
            },
            "metric": f"{this}:likelihood",
            "seed": seed,
            "passes": [{"type": "slice-elastic", "width": 1.0, **EIGHTS}, {"type": "recalibrate"}],
            "bench": {"batch": BATCH, "threads": 1},
            "search": {
                "choices": {"slice-elastic": choices},
                "constraints": {"latency_ms": f"{limit:.2%}"},
                "objectives": ["metric"],
                "latency_table": str(setting.table),
                "trials": setting.trials,
            },
        }
    )


def searched(cell: Cell, setting: Setting) -> graphc.Program:
    """The likeliest sub-network of a latency, by images that were held out, with statistics of its own.

    Of the candidates of the search those count that are close to the latency; the first of them is taken of which
    this is still true when it is measured.
    """
    folder = setting.table.parent / f"search_{cell.seed}_{cell.share:.0%}".replace("%", "")
    program, first = elastic(cell.seed, setting), whole(cell.seed, setting)
    with TemporaryDirectory() as place:
        graphc.emit(program, Path(place) / "elastic")
        asked = recipe(Path(place) / "elastic", cell.share, cell.seed, setting)
        shutil.rmtree(folder, ignore_errors=True)
        found = search(asked, folder)
        limit = found.limits["latency_ms"]
        close = [c for c in found.candidates if c.fits and c.figures["latency_ms"] >= (1 - 2 * NEAR) * limit]
        for candidate in sorted(close, key=lambda c: -c.figures["metric"]):
            passes = [SliceElastic(**spec_of(candidate), **EIGHTS), Recalibrate()]
            small = graphc.compile(program, passes=passes, data=data(setting)).program
            if abs(measured(small, first) / cell.share - 1) <= NEAR / 2:
                return small
    raise SystemExit(f"of {len(close)} sub-networks none takes {cell.share:.0%} when it is measured")


def spec_of(candidate: Candidate) -> dict[str, dict[str, float]]:
    """Options of slice-elastic, by part and name."""
    found: dict[str, dict[str, float]] = {}
    for name, value in candidate.choices.items():
        _, part, choice = name.split(".", 2)
        found.setdefault(part, {})[choice] = value
    return found


def uniform(program: graphc.Program, share: float, setting: Setting) -> graphc.Program:
    """Every layer without the same share of its filters."""
    limits: dict[str, Any] = {"constraints": {"latency_ms": f"{share:.0%}"}, "latency_dims": {"batch": BATCH}}
    prune = PruneFilters(ranking="local", latency_table=str(setting.table), **limits)
    return graphc.compile(program, passes=[prune]).program


def run(cell: Cell, setting: Setting) -> Outcome:
    """Make the network of a latency, train it, look at it."""
    torch.set_num_threads(1)
    first = whole(cell.seed, setting)
    if cell.method == "uniform":
        small = trained(uniform(first, cell.share, setting), setting.steps, cell.seed, setting)
    else:
        small = trained(searched(cell, setting), setting.own, cell.seed, setting)
    now, before = cost(small), cost(first)
    right = accuracy(small, half(setting.folder, "t10k"))
    return Outcome(measured(small, first), now.macs / before.macs, now.params / before.params, right)


def rows_of(known: Mapping[Cell, Outcome]) -> list[list[str]]:
    """Means over seeds, by latency and method."""
    rows = []
    for share, method in dict.fromkeys((cell.share, cell.method) for cell in known):
        found = [o for c, o in known.items() if (c.share, c.method) == (share, method)]
        means = [statistics.fmean(getattr(o, name) for o in found) for name in ("latency", "macs", "params")]
        right = [o.accuracy for o in found]
        shown = [f"{v:.2%}" for v in (statistics.fmean(right), min(right), max(right))]
        rows.append([f"{share:.0%}", method, *(f"{mean:.1%}" for mean in means), *shown])
    return rows


def claims_of(known: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """Every latency is as asked for, and elastic networks are as accurate."""

    def mean(method: str, share: float) -> float:
        return statistics.fmean(o.accuracy for c, o in known.items() if (c.method, c.share) == (method, share))

    near = all(abs(o.latency / c.share - 1) <= NEAR for c, o in known.items() if c.method == "elastic")
    claims = {f"the elastic networks' latencies are within {NEAR:.0%} of what was asked for": near}
    for share in LATENCIES:
        claims[f"at {share:.0%} the elastic network is at least as accurate as the uniform one, in the mean"] = mean(
            "elastic", share
        ) >= mean("uniform", share)
    return claims


def cells(seeds: int) -> Iterator[Cell]:
    """All of a seed one after the other."""
    for seed in range(seeds):
        for share in LATENCIES:
            yield from (Cell(method, share, seed) for method in ("elastic", "uniform"))


def main(setting: Setting, options: Namespace) -> int:
    """The command."""
    console = Console()
    file = options.out / "fashion_mnist_shrinking.jsonl"
    work = partial(run, setting=setting)
    known = outcomes(list(cells(options.seeds)), work, (Cell, Outcome), file, 1, console)
    here = environment()
    shown = {key: value for key, value in vars(setting).items() if key not in ("folder", "table")}
    notes = [
        f"{here['cpu']}, {here['platform']}, torch {here['versions']['torch']}, onnxruntime "
        f"{here['versions']['onnxruntime']}, 1 thread, batch {BATCH}; {options.seeds} seeds; "
        "`python -m benchmarks.quality.fashion_mnist_shrinking`",
        ", ".join(f"{key} {value}" for key, value in shown.items()),
        "latencies are medians of processor time, in turns with the whole network",
        "that likelihood chooses, and how many steps there are of each kind, was settled after runs whose test "
        "accuracy was seen",
    ]
    return conclude("fashion_mnist_shrinking", COLUMNS, rows_of(known), notes, claims_of(known), options.out, console)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the four .gz files")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    given = parser.parse_args()
    if not (given.data / "train-images-idx3-ubyte.gz").exists():
        parser.error(f"the data is not in {given.data}: {PACKAGE}")
    given.out.mkdir(parents=True, exist_ok=True)
    sys.exit(main(Setting(given.data, given.out / "fashion_mnist_shrinking.table.json"), given))
