"""Accuracy on Fashion-MNIST of two networks in 8-bit integers, calibrated and trained with roundings.

    python -m benchmarks.quality.fashion_mnist_int8 [--seeds N] [--steps N] [--jobs N] [--out DIR]

The networks are that of fashion_mnist and what fashion_mnist_distill makes of it: a quarter of the
MACs, taught by the whole. Each is trained once and kept in OUT, where the first is shared with both.
Each then becomes integers in two ways that see no label: calibrated on 256 training images (static),
and trained for a few hundred steps with roundings to give what it gave in float32 (qat). The accuracy is
that of the emitted ONNX file in onnxruntime on the 10,000 official test images, which nothing was chosen
by; seeds draw the images and their order. What is known is kept in OUT/fashion_mnist_int8.jsonl.
Needs the Debian package dataset-fashion-mnist.
Exit code 1 if, in the mean of the seeds, static costs either network more than 0.3 points, or qat more than 0.1.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime as ort
import torch
from graphc.passes import Distill, Quantize
from rich.console import Console

import graphc
from benchmarks.quality import fashion_mnist_distill
from benchmarks.quality.fashion import Batches, Images, Model, accuracy, arguments, given, load, read, teacher
from benchmarks.quality.study import conclude, outcomes
from graphc.measure.environment import cpu_flags, environment
from graphc.measure.placement import placement

NETS = ("whole", "quarter")
LIMITS = {"static": 0.003, "qat": 0.001}
"""The greatest drop from float32, by how integers came about."""
CALIBRATION = 256
"""Images that ranges are found on."""
RATE = 1e-4
STUDENT = fashion_mnist_distill.Cell("kl", 40_000, 2, 0)
"""How the quarter is trained."""
COLUMNS = ["network", "way", "accuracy", "spread", "drop", "bytes", "products in integers", "seconds"]


@dataclass(frozen=True)
class Cell:
    """A network, a way to integers (or float32), steps of training, and a seed."""

    net: str
    way: str
    steps: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of it: accuracy, bytes of the file, its products and those in integers, seconds of the processor."""

    accuracy: float
    bytes: int
    products: int
    integer: int
    seconds: float


def run(cell: Cell, out: Path, folder: Path) -> Outcome:
    """The outcome on the real images: the seed draws those to calibrate and to train on."""
    torch.set_num_threads(1)
    program = graphc.load(file(out, cell.net))
    return outcome(cell, program, read(folder, "train")[0], read(folder, "t10k"))


def file(out: Path, net: str) -> Path:
    """Where a network is kept as a program."""
    return out / f"fashion_{net}.pt2"


def outcome(cell: Cell, program: graphc.Program, x: torch.Tensor, test: Images) -> Outcome:
    """Make integers with training images ``[n, 1, 28, 28]``, write the file, take its accuracy."""
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(cell.seed))]
    order = torch.Generator().manual_seed(cell.seed)
    unlabelled = Batches((x, torch.zeros(len(x), dtype=torch.int64)), order)
    data = {"train": unlabelled, "calibration": x[:CALIBRATION].split(64)}
    with TemporaryDirectory() as place:
        start = time.process_time()
        graphc.compile(program, passes=passes(cell), data=data, seed=cell.seed, emit=["net.onnx"], output_dir=place)
        seconds = time.process_time() - start
        path = Path(place, "net.onnx")
        found = placement(path)
        products = len(found.integer) + len(found.floating)
        return Outcome(accuracy(runtime(path), test), path.stat().st_size, products, len(found.integer), seconds)


def passes(cell: Cell) -> list[graphc.Pass]:
    """What makes integers: nothing for float32."""
    if cell.way == "float32":
        return []
    if cell.way == "static":
        return [Quantize()]
    kl = {"type": "kl"}
    return [
        Distill(losses=(kl,), during=({"type": "qat"},), steps=cell.steps, learning_rate=RATE, keep="last", log=None)
    ]


def runtime(path: Path) -> Model:
    """An ONNX file in onnxruntime, in one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def make(out: Path, folder: Path, console: Console) -> None:
    """Both networks as programs, unless they are there; the whole one is trained already."""
    model = load(out / "fashion_resnet.pt")
    if not file(out, "whole").exists():
        example = torch.randn(4, 1, 28, 28)
        graphc.emit(graphc.capture(model, (example,), dynamic={"x": {0: "batch"}}), file(out, "whole"))
    if not file(out, "quarter").exists():
        console.print(f"training the quarter, {STUDENT.epochs} epochs of {STUDENT.images:,} images")
        images = fashion_mnist_distill.drawn(read(folder, "train"), STUDENT)
        graphc.emit(fashion_mnist_distill.compressed(STUDENT, model, images), file(out, "quarter"))


def cells(seeds: int, steps: int) -> Iterator[Cell]:
    """All of them, seed by seed; float32 has but one."""
    yield from (Cell(net, "float32", 0, 0) for net in NETS)
    for seed in range(seeds):
        for net in NETS:
            yield Cell(net, "static", 0, seed)
            yield Cell(net, "qat", steps, seed)


def grouped(found: Mapping[Cell, Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Outcomes of all seeds by network and way."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for cell in sorted(found, key=lambda cell: (NETS.index(cell.net), ["float32", *LIMITS].index(cell.way))):
        groups.setdefault((cell.net, cell.way), []).append(found[cell])
    return groups


def mean(outcomes: list[Outcome]) -> float:
    """Accuracy."""
    return statistics.mean(one.accuracy for one in outcomes)


def rows(found: Mapping[Cell, Outcome]) -> list[list[str]]:
    """A line a network and way: means over the seeds, and the spread (standard deviation)."""
    groups = grouped(found)
    made = []
    for (net, way), all_ in groups.items():
        spread = statistics.pstdev(one.accuracy for one in all_)
        drop = 100 * (mean(groups[net, "float32"]) - mean(all_))
        integer = f"{min(one.integer for one in all_)} of {all_[0].products}"
        seconds = f"{statistics.mean(one.seconds for one in all_):.0f}"
        figures = [f"{mean(all_):.2%}", f"{spread:.2%}", f"{drop:.2f}", f"{all_[0].bytes:,}", integer, seconds]
        made.append([net, way, *figures])
    return made


def claims(found: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """What integers cost each network, by each way."""
    groups = grouped(found)
    said = {}
    for net in NETS:
        for way, limit in LIMITS.items():
            drop = mean(groups[net, "float32"]) - mean(groups[net, way])
            text = f"{way} costs the {net} network {100 * drop:.2f} points, at most {100 * limit:.1f}"
            said[text] = drop <= limit + 1e-9
    return said


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of training with roundings")
    options, console = given(parser), Console()
    torch.set_num_threads(1)
    teacher(options.out / "fashion_resnet.pt", options.data, options.teacher_epochs, console)
    make(options.out, options.data, console)
    todo = list(cells(options.seeds, options.steps))
    known = options.out / "fashion_mnist_int8.jsonl"
    job = partial(run, out=options.out, folder=options.data)
    came = outcomes(todo, job, (Cell, Outcome), known, options.jobs, console)
    found = {cell: came[cell] for cell in todo}
    machine = environment()
    flags = ", ".join(sorted(flag for flag in cpu_flags() if "vnni" in flag)) or "none of VNNI"
    notes = [
        f"seeds: {options.seeds}; accuracy of ONNX files in onnxruntime on 10,000 images; drop in points from float32",
        f"static: {CALIBRATION} images calibrate; qat: {options.steps} steps of 128 images, AdamW at {RATE:g}",
        f"{machine['cpu']} ({flags}), onnxruntime {machine['versions']['onnxruntime']}; seconds of the processor",
    ]
    return conclude("fashion_mnist_int8", COLUMNS, rows(found), notes, claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
