"""Is a discretised supernet its chosen operations with weight 1 and nothing else? DARTS, PC-DARTS, ways to write one.

    python -m benchmarks.darts [--quick] [--out DIR]

Each supernet is captured once; for each set of architecture parameters `discretize` chooses, and the result is held
against the supernet's own modules, summed by the reference's rule (Liu et al. 2019): the same genotype, and outputs
equal to 1e-6, in evaluation and in training, statistics of batch norms included. Sizes are those of the authors'
search network with fewer channels: four nodes a cell, 14 edges, eight operations. Exit code 1 if anything differs.
"""

from __future__ import annotations

import copy
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from graphc.passes import Discretize
from rich.console import Console
from torch import Tensor, nn

import graphc
from benchmarks.quality.study import conclude
from benchmarks.supernets import NORMS, TABLES, WAYS, Edges, PartialCell, darts, reference
from examples.darts_space import Network
from graphc.ir.edit import rebuild
from graphc.measure.environment import environment

LIMIT = 1e-6
COLUMNS = ["supernet", "nodes", "parameters", "seconds", "choices", "eval", "train"]
SIZES = {
    "C4, 3 cells": {"layers": 3, "steps": 4, "multiplier": 4},
    "C4, 4 cells": {"layers": 4, "steps": 4, "multiplier": 4},
    "C8, 2 cells, 3 nodes": {"width": 8, "layers": 2, "steps": 3, "multiplier": 3},
    "C4, 6 cells, 2 nodes": {"layers": 6, "steps": 2, "multiplier": 2},
}
SPREADS = (1e-3, 1.0, 3.0)
"""Of the architecture parameters: as a search begins, and as it ends."""


@dataclass(frozen=True)
class Result:
    """What was found of one supernet.

    Attributes:
        name: what it is.
        nodes, params: before and after.
        seconds: of the pass.
        same: the genotype is the reference's.
        errors: the greatest difference of outputs and statistics in evaluation and in training.
    """

    name: str
    nodes: tuple[int, int]
    params: tuple[int, int]
    seconds: float
    same: bool
    errors: tuple[float, float]


def good(result: Result) -> bool:
    """Nothing differs."""
    return result.same and max(result.errors) <= LIMIT


def prove(
    name: str,
    program: graphc.Program,
    net: nn.Module,
    inputs: tuple[Tensor, ...],
    expected: Callable[..., Tensor],
    genotype: str | None,
) -> Result:
    """Discretise and compare.

    Args:
        name: for the table.
        program: the supernet's.
        net: the supernet, for ``expected``.
        inputs: to compare on.
        expected: what the reference makes of a supernet and inputs.
        genotype: the reference's; None if it has none.
    """
    start = time.perf_counter()
    done = graphc.compile(program, passes=[Discretize()])
    seconds = time.perf_counter() - start
    facts = done.report["passes"][0]["facts"]
    errors = []
    for training in (False, True):
        own = graphc.set_training(done.program, training)
        other = copy.deepcopy(net).train(training)
        with torch.no_grad():
            error = float((own(*inputs) - expected(other, *inputs)).abs().max())
        state = other.state_dict()
        moved = [
            float((value.detach() - state[key]).abs().max()) for key, value in own.tensors().items() if key in state
        ]
        errors.append(max([error, *moved]))
    return Result(
        name,
        (len(program.graph.nodes), len(done.program.graph.nodes)),
        tuple(sum(p.numel() for p in one.parameters()) for one in (program, done.program)),
        seconds,
        genotype is None or facts["genotype"] == genotype,
        tuple(errors),
    )


def with_alphas(net: Network, spread: float, seed: int) -> tuple[Network, dict[str, Any]]:
    """The supernet with other architecture parameters, and these."""
    net, generator = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    alphas = {name: torch.randn(getattr(net, name).shape, generator=generator) * spread for name in TABLES}
    for name, value in alphas.items():
        setattr(net, name, value)
    return net, alphas


def networks(names: list[str]) -> Iterator[Result]:
    """DARTS of several sizes, each with several architecture parameters."""
    for name in names:
        net = darts("tensor", **SIZES[name])
        program = graphc.capture(net, (torch.randn(4, 3, 16, 16),))
        for seed, spread in enumerate(SPREADS):
            changed, alphas = with_alphas(net, spread, seed)
            inputs = (torch.randn(3, 3, 16, 16),)
            told = f"DARTS, {name}, alphas of {spread:g}"
            genotype = str(changed.genotype())
            both = set(changed.reductions) == {False, True}
            yield prove(told, rebuild(program, tensors=alphas), changed, inputs, reference, genotype if both else None)


def partial(stride: int) -> Result:
    """A cell of PC-DARTS."""
    torch.manual_seed(stride)
    cell = PartialCell(8, stride, steps=4).eval()
    inputs = torch.randn(4, 8, 8, 8), torch.randn(4, 8, 8, 8)
    kind = "normal" if stride == 1 else "reduce"
    genotype = f"Genotype({kind}={cell.gene()}, {kind}_concat=range(2, 6))"
    program = graphc.capture(cell, inputs)
    return prove(f"PC-DARTS, stride {stride}", program, cell, inputs, PartialCell.reference, genotype)


def written(way: str, norm: str) -> Result:
    """A mixture that is written in one of many ways."""
    torch.manual_seed(0)
    net = Edges(WAYS[way], NORMS[norm]).eval()
    inputs = (torch.randn(4, 3, 7, 7),)
    return prove(f"{way}, {norm}", graphc.capture(net, inputs), net, inputs, Edges.reference, None)


def row(result: Result) -> list[str]:
    """A line of the table."""
    pairs = [f"{before:,} => {after:,}" for before, after in (result.nodes, result.params)]
    errors = [f"{error:.1e}" for error in result.errors]
    return [result.name, *pairs, f"{result.seconds:.2f}", "equal" if result.same else "DIFFER", *errors]


def main() -> int:
    """Print the table; 1 if anything differs."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest network, and each way once")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    console = Console(width=140)
    console.print(environment())
    torch.set_num_threads(1)
    results: list[Result] = []
    for result in networks(list(SIZES)[-1:] if options.quick else list(SIZES)):
        results.append(result)
        console.print(row(result))
    results += [partial(stride) for stride in (1, 2)]
    results += [written(way, norm) for way in WAYS for norm in (list(NORMS)[:1] if options.quick else NORMS)]
    wrong = [result.name for result in results if not good(result)]
    claim = f"{len(results)} supernets: the reference's choices, outputs and statistics equal to {LIMIT:g}"
    notes = [f"differ: {', '.join(wrong)}"] if wrong else []
    return conclude("darts", COLUMNS, list(map(row, results)), notes, {claim: not wrong}, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
