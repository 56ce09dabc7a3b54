"""graphc and Torch-Pruning remove half of the channels of every classifier of torchvision.

    python -m benchmarks.peers.pruning_speed [MODEL ...] [--out DIR]

Both have the same model, ratio, importance (sum of absolute weights) and ranking (within a layer),
one thread, and for each model a process of its own with limits of time and memory. They take turns.
A model counts as done if it has fewer parameters and runs at another batch size. Seconds are those
of the processor, after a warm-up on a small net; memory is the peak of the process less what it
used before: imports, warm-up and model. Exit code 1 if a claim of the last lines does not hold.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import apart, tables
from benchmarks.peers.pruning import TOOLS, Pruned, prune
from graphc.measure.environment import environment

PACKAGE = "torch-pruning==1.6.1"
COLUMNS = [
    *("model", "TP build s", "prune s", "MB", "params", "MACs"),
    *("graphc capture s", "analyse s", "choose s", "slice s", "MB", "params", "MACs"),
    *("times faster", "with capture"),
]
FASTER = 10.0
"""How many times faster analysis and slicing are to be, in the geometric mean."""


@dataclass(frozen=True)
class Pair:
    """One model, by both tools."""

    peer: Pruned
    own: Pruned

    @property
    def both(self) -> bool:
        """Did both succeed?"""
        return self.peer.done and self.own.done

    @property
    def ratio(self) -> float:
        """How many times faster analysis, choice and slice are than build and prune."""
        return seconds(self.peer) / (seconds(self.own) - self.own.seconds["capture"])

    @property
    def total_ratio(self) -> float:
        """The same with capture."""
        return seconds(self.peer) / seconds(self.own)

    @property
    def memory_ratio(self) -> float:
        """How many times more memory the peer takes."""
        return max(self.peer.grown, 2**20) / max(self.own.grown, 2**20)


def seconds(found: Pruned) -> float:
    """All stages together."""
    return sum(found.seconds.values())


def classifiers() -> list[str]:
    """All of torchvision, by name."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def run_apart(name: str, tool: str, options: argparse.Namespace) -> Pruned:
    """One model and one tool in a process of its own."""
    words = [name, "--one", tool, "--pixels", f"{options.pixels}", "--memory", f"{options.memory}"]
    told, why = apart.run("benchmarks.peers.pruning_speed", words, options.limit)
    found = Pruned(**told) if told else Pruned(name, tool)
    if not found.done and not found.failed:
        found.failed = why
    return found


def run_one(name: str, tool: str, options: argparse.Namespace) -> int:
    """The child's part: a line of JSON whenever a stage begins."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (options.memory * 2**30, resource.RLIM_INFINITY))
    found = prune(name, tool, options.pixels, lambda now: print(json.dumps(asdict(now)), flush=True))
    return 0 if found.done else 1


def row(pair: Pair) -> list[str]:
    """A line of the table."""
    peer = _cells(pair.peer, "build", "prune")
    own = _cells(pair.own, "capture", "analyse", "choose", "slice")
    ratios = [f"{pair.ratio:.1f}", f"{pair.total_ratio:.2f}"] if pair.both else ["", ""]
    return [pair.peer.model, *peer, *own, *ratios]


def _cells(found: Pruned, *stages: str) -> list[str]:
    times = [f"{found.seconds[stage]:.3f}" if stage in found.seconds else "" for stage in stages]
    if not found.done:
        return [*times, "", "failed", found.stage]
    left = [f"{after / before:.1%}" for before, after in (found.params, found.macs)]
    return [*times, f"{found.grown / 2**20:.0f}", *left]


def claims(pairs: Sequence[Pair]) -> dict[str, bool]:
    """What the table adds up to, over the models that both can do, and whether it is as it should be."""
    both = [pair for pair in pairs if pair.both]
    if not both:
        return {"no model was done by both": False}
    ratio = statistics.geometric_mean(pair.ratio for pair in both)
    total = statistics.median(pair.total_ratio for pair in both)
    memory = statistics.geometric_mean(pair.memory_ratio for pair in both)
    less = sum(pair.memory_ratio > 1 for pair in both)
    return {
        f"analysis, choice and slice against build and prune: {ratio:.1f} times faster (geometric mean)": ratio
        >= FASTER,
        f"with capture: {total:.2f} times faster (median)": total >= 1,
        f"peak memory: the peer takes {memory:.1f} times as much (geometric mean), "
        f"more in {less} of {len(both)} models": memory > 1,
    }


def notes(pairs: Sequence[Pair]) -> list[str]:
    """How many each tool did, the claims, and every failure."""
    lines = [f"{tool}: {sum(found.done for found in side)} of {len(pairs)} models" for tool, side in _sides(pairs)]
    lines += [f"{claim}: {'holds' if good else 'DOES NOT HOLD'}" for claim, good in claims(pairs).items()]
    for tool, side in _sides(pairs):
        lines += [f"{tool}, {f.model}: {f.failed} ({f.stage})" for f in side if not f.done]
    return lines


def _sides(pairs: Sequence[Pair]) -> list[tuple[str, list[Pruned]]]:
    return [("torch-pruning", [pair.peer for pair in pairs]), ("graphc", [pair.own for pair in pairs])]


def measure(name: str, number: int, options: argparse.Namespace) -> Pair:
    """Both tools on one model; they begin in turn."""
    order = list(TOOLS) if number % 2 else list(reversed(TOOLS))
    found = {tool: run_apart(name, tool, options) for tool in order}
    return Pair(found["torch-pruning"], found["graphc"])


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if the peer is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="classifiers of torchvision; all if none is given")
    parser.add_argument("--pixels", type=int, default=224, help="width and height of the images")
    parser.add_argument("--limit", type=float, default=120, help="seconds of one process")
    parser.add_argument("--memory", type=int, default=12, help="GiB of one process")
    parser.add_argument("--out", type=Path, help="folder for the table as CSV and Markdown, written after each model")
    parser.add_argument("--one", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if find_spec("torch_pruning") is None:
        parser.error(f"the peer is not installed: pip install {PACKAGE}")
    if wrong := set(options.models) - set(classifiers()):
        parser.error(f"torchvision has no classifier {', '.join(sorted(wrong))}")
    if options.one:
        return run_one(options.models[0], options.one, options)
    console = Console(width=180)
    settings = f"1 thread, {options.pixels} pixels, limits {options.limit:.0f} s and {options.memory} GiB"
    console.print(environment(), f"{PACKAGE}, {settings}")
    names = options.models or classifiers()
    pairs: list[Pair] = []
    for number, name in enumerate(track(names, console=console)):
        pairs.append(measure(name, number, options))
        if options.out:
            tables.write("pruning_speed", COLUMNS, list(map(row, pairs)), [settings, *notes(pairs)], options.out)
    table = Table(*COLUMNS)
    for pair in pairs:
        table.add_row(*row(pair))
    console.print(table)
    for note in notes(pairs):
        console.print(note, markup=False)
    return 0 if all(claims(pairs).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
