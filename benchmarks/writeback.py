"""Compressed models back in their own classes, and in folders that ``from_pretrained`` loads.

    python -m benchmarks.writeback

Every second unit of each chosen axis is removed, in all layers alike. ``graphc.to_module`` then gives
the original class; ``graphc.save_pretrained`` a folder, where the configuration can say the result.
Both are compared with the program at a size other than the captured one. Exit code 1 where the own
class is not equal within 1e-5, or a folder that must be written is not.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils import _pytree as pytree

import graphc
from benchmarks.models import Case, randomise, transformer, vision
from benchmarks.soundness import SEED
from graphc.axes.axis import Axis
from graphc.errors import EmitError
from graphc.ir.capture import evaluating
from graphc.measure.environment import environment

TOLERANCE = 1e-5
Choose = Callable[[Axis], bool]


@dataclass(frozen=True)
class Way:
    """What is cut, and whether a configuration must be able to say it."""

    case: Case
    what: str
    choose: Choose
    folder: bool


@dataclass(frozen=True)
class Written:
    """What came back: relative errors, None where a folder was refused, and the reason."""

    way: Way
    axes: int
    params: tuple[int, int]
    error: float
    folder: float | None
    refused: str = ""

    @property
    def good(self) -> bool:
        """Is the own class equal, and the folder too where it must be written?"""
        found = self.folder if self.folder is not None else (1.0 if self.way.folder else 0.0)
        return self.error <= TOLERANCE and found <= TOLERANCE and self.axes > 0


def _exact(axis: Axis) -> bool:
    return not axis.mixed


def _heads(axis: Axis) -> bool:
    return "heads" in axis.roles and not axis.mixed


def _inner(size: int) -> Choose:
    return lambda axis: axis.size == size and not axis.mixed


def ways() -> list[Way]:
    """The models; of BERT, ViT and GPT-2 only the width of the blocks is a field by itself."""
    found = [Way(vision(name), "all filters", _exact, False) for name in ("resnet50", "mobilenet_v2")]
    for name, inner in (("bert", 144), ("vit", 144), ("gpt2", 256)):
        case = transformer(name, "sdpa")
        found += [Way(case, "heads", _heads, False), Way(case, "intermediate size", _inner(inner), True)]
        found.append(Way(case, "everything exact", _exact, False))
    llama = transformer("llama", "sdpa")
    found += [Way(llama, "heads", _heads, True), Way(llama, "intermediate size", _inner(144), True)]
    found.append(Way(llama, "hidden size", lambda axis: axis.mixed, True))
    return found


def write_back(way: Way) -> Written:
    """Cut, put back, save, load, compare."""
    case = way.case
    torch.manual_seed(SEED)
    original = randomise(case.build()).eval()
    program = graphc.capture(original, (), case.inputs, dynamic=case.dynamic)
    chosen = [axis for axis in graphc.find_axes(program) if axis.pinned is None and way.choose(axis)]
    smaller = graphc.slice(program, {axis: range(0, axis.size, 2) for axis in chosen})
    module = graphc.to_module(smaller, original)
    assert type(module) is type(original)
    folder, refused = None, ""
    if hasattr(original, "save_pretrained"):
        with tempfile.TemporaryDirectory() as temporary:
            try:
                path = graphc.save_pretrained(smaller, original, Path(temporary) / "model")
                folder = _error(type(original).from_pretrained(path), smaller, case)  # type: ignore[attr-defined] # a transformers model
            except EmitError as error:
                refused = error.why
    params = tuple(sum(p.numel() for p in x.parameters()) for x in (program, smaller))
    return Written(way, len(chosen), (params[0], params[1]), _error(module, smaller, case), folder, refused)


def _error(module: torch.nn.Module, program: graphc.Program, case: Case) -> float:
    args, kwargs = program.contract.resized(**case.other)
    with evaluating(module):
        found, wanted = (_flat(x(*args, **kwargs)) for x in (module, program))
    return float((found - wanted).norm() / wanted.norm())


def _flat(results: Any) -> torch.Tensor:
    return torch.cat([v.flatten() for v in pytree.tree_leaves(results) if isinstance(v, torch.Tensor)])


def main() -> int:
    """Write all models back and print a table."""
    console = Console(width=150)
    console.print(environment(), f"seed {SEED}")
    table = Table("model", "cut", "axes", "parameters", "own class", "from_pretrained")
    results = [write_back(way) for way in ways()]
    for r in results:
        before, after = r.params
        folder = (
            f"{r.folder:.1e}" if r.folder is not None else f"refused: {r.refused.split(';')[0]}" if r.refused else ""
        )
        counts = f"{before / 1e6:.2f} => {after / 1e6:.2f} M"
        table.add_row(r.way.case.name, r.way.what, f"{r.axes}", counts, f"{r.error:.1e}", folder)
    console.print(table)
    console.print(f"{sum(r.good for r in results)} of {len(results)} hold")
    return 0 if all(r.good for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
