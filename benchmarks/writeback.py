"""Compressed programs back in their own classes, and as folders that from_pretrained loads.

    python -m benchmarks.writeback [--seed N] [NAME ...]

ResNet-50 and MobileNetV2 at full size, BERT, ViT, Llama with grouped-query attention and GPT-2 at
tiny sizes, all untrained, are cut uniformly by passes. What ``to_module`` gives, and where the
config can say it what ``from_pretrained`` loads from the folder of ``save_pretrained``, is run
beside the program on new inputs at two sizes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from graphc.passes import PruneFilters, PruneHeads, PruneLayers, PruneWidth
from rich.console import Console
from rich.table import Table

import graphc
from benchmarks import models
from graphc.ir.capture import evaluating
from graphc.measure.environment import environment

TOLERANCE = 1e-5
NAMES = ("resnet50", "mobilenet_v2", "bert", "vit", "llama", "gpt2")
HEADS, WIDTH, LAYERS = (kind(pruning_ratio=0.5) for kind in (PruneHeads, PruneWidth, PruneLayers))
CUTS: Mapping[str, tuple[graphc.Pass, ...]] = {
    "filters": (PruneFilters(pruning_ratio=0.5),),
    "heads": (HEADS,),
    "width": (WIDTH,),
    "layers": (LAYERS,),
    "hidden size": (PruneWidth(pruning_ratio=0.5, mixed=True),),
    "width, layers": (WIDTH, LAYERS),
    "heads, width, layers": (HEADS, WIDTH, LAYERS),
}
UNSAID = {
    ("bert", "heads"),
    ("bert", "heads, width, layers"),
    ("gpt2", "heads"),
    ("gpt2", "heads, width, layers"),
    ("gpt2", "hidden size"),
}
"""What has no field in the config: heads whose widths do not sum to the hidden size."""
VISION_CUTS, TEXT_CUTS = ("filters", "layers"), tuple(name for name in CUTS if name != "filters")


@dataclass(frozen=True)
class Result:
    """One way back of one compressed model.

    Attributes:
        params: entries of the program's parameters, before and after.
        way: ``own class`` or ``from_pretrained``.
        errors: relative error at each of two sizes; empty if the way was refused.
        refused: why, if it was.
    """

    name: str
    cut: str
    params: tuple[int, int]
    way: str
    errors: tuple[float, ...]
    refused: str = ""


def good(result: Result) -> bool:
    """Equal at all sizes; or refused, where the config cannot say it."""
    if result.way == "from_pretrained" and (result.name, result.cut) in UNSAID:
        return "its config cannot make these sizes" in result.refused
    return len(result.errors) == 2 and max(result.errors) <= TOLERANCE


def prove(name: str, cut: str, seed: int = 0) -> list[Result]:
    """Compress a model in one way, and take all ways back."""
    torch.manual_seed(seed)
    case = models.transformer(name, "sdpa") if name in models.TEXT else models.vision(name)
    model = models.randomise(case.build(), seed).eval()
    dynamic = {key: dict(dims) for key, dims in case.dynamic.items()}
    program = graphc.capture(model, (), dict(case.inputs), dynamic=dynamic)
    after = graphc.compile(program, passes=CUTS[cut]).program
    params = tuple(sum(p.numel() for p in p.parameters()) for p in (program, after))
    back = graphc.to_module(after, model, tolerance=TOLERANCE)
    results = [Result(name, cut, params, "own class", errors(after, back, case))]
    if hasattr(model, "save_pretrained"):
        with tempfile.TemporaryDirectory() as folder:
            found, refused = reloaded(after, model, Path(folder) / "model", case)
        results.append(Result(name, cut, params, "from_pretrained", found, refused))
    return results


def reloaded(
    program: graphc.Program, model: torch.nn.Module, folder: Path, case: models.Case
) -> tuple[tuple[float, ...], str]:
    """The errors of what from_pretrained loads, or why there is no folder."""
    try:
        graphc.save_pretrained(program, model, folder, tolerance=TOLERANCE)
    except graphc.GraphError as error:
        return (), error.why
    return errors(program, type(model).from_pretrained(folder), case), ""


def errors(program: graphc.Program, module: torch.nn.Module, case: models.Case) -> tuple[float, float]:
    """Relative error of the main output on new inputs, at the example's sizes and at others."""
    with evaluating(module):
        first, second = (error(program, module, new_inputs(case, other)) for other in (False, True))
    return first, second


def new_inputs(case: models.Case, other: bool) -> dict[str, torch.Tensor]:
    """Random inputs like the examples, on request with other sizes of the dynamic dims."""
    made: dict[str, torch.Tensor] = {}
    for name, value in case.inputs.items():
        dims = case.dynamic[name] if other else {}
        shape = [case.other[dims[i]] if i in dims else size for i, size in enumerate(value.shape)]
        whole = not value.is_floating_point()
        made[name] = torch.randint(int(value.min()), int(value.max()) + 1, shape) if whole else torch.randn(shape)
    return made


def error(program: graphc.Program, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference over norm, of the first output."""
    wanted, found = (
        next(v for v in torch.utils._pytree.tree_leaves(f(**inputs)) if isinstance(v, torch.Tensor)).double()
        for f in (program, module)
    )
    return float((found - wanted).norm() / wanted.norm())


def main() -> int:
    """Print a table; 1 if a way back is not equal, or refused for another reason than its config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    console = Console(width=150, highlight=False)
    console.print(environment())
    console.print(f"seed {given.seed}; ratio 0.5 of each; limit {TOLERANCE}")
    table = Table("model", "cut", "params", "way back", "relative error at two sizes")
    results: list[Result] = []
    for name in given.names or NAMES:
        for cut in TEXT_CUTS if name in models.TEXT else VISION_CUTS:
            results += prove(name, cut, given.seed)
    for r in results:
        said = r.refused[:60] + " ..." if r.refused else ", ".join(f"{e:.1e}" for e in r.errors)
        share = f"{r.params[0]:,} => {r.params[1]:,} ({r.params[1] / r.params[0]:.0%})"
        table.add_row(r.name, r.cut, share, r.way, said if good(r) else f"[red]{said}")
    console.print(table)
    bad = sum(not good(r) for r in results)
    console.print(f"{bad} of {len(results)} do not hold" if bad else "all hold")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
