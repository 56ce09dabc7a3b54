"""Sliced = masked on real architectures, and what the polynomials say is what is counted.

    python -m benchmarks.soundness [MODEL ...]

For each model: a random half of every axis that is neither pinned nor mixed is cut, and the result
is compared with the masked original at a size other than the captured one. Then all mixed axes are
cut too: the program must run, train one step and be captured again. Parameters and MACs counted on
the sliced program (MACs by torch's own FLOP counter) must equal the polynomials of the original.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import graphc
from benchmarks.models import Case, cases, randomise
from graphc.axes.axis import Axis
from graphc.coupling import analyze
from graphc.coupling.cost import budget
from graphc.ir.edit import rebuild
from graphc.measure.environment import environment
from graphc.rules.operation import Need

SEED = 0


@dataclass(frozen=True)
class Result:
    """What was seen for one model."""

    name: str
    axes: int
    mixed: int
    error: float
    moved: float
    params: float
    params_mixed: float
    exact: bool
    seconds: float


def half(axes: Sequence[Axis], seed: int = SEED, needs: Sequence[Need] = ()) -> dict[Axis, list[int]]:
    """A random half of each axis, at least one unit, and what an op needs of it (a router its number of experts)."""
    generator = torch.Generator().manual_seed(seed)
    least = {need.axis.root(): need.least for need in needs}
    return {
        axis: sorted(torch.randperm(axis.size, generator=generator)[: max(axis.size // 2, least.get(axis, 1))].tolist())
        for axis in axes
    }


def outputs(program: graphc.Program, sizes: Mapping[str, int]) -> torch.Tensor:
    """All outputs at some sizes as one vector."""
    args, kwargs = program.contract.resized(**sizes)
    with torch.no_grad():
        found = pytree.tree_leaves(program(*args, **kwargs))
    return torch.cat([value.flatten().double() for value in found if isinstance(value, torch.Tensor)])


def counted(program: graphc.Program) -> tuple[int, int]:
    """Parameters, and MACs by torch's FLOP counter, at the example size."""
    args, kwargs = program.example()
    return sum(p.numel() for p in program.parameters()), macs_of(program, *args, **kwargs)


def macs_of(model: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """MACs of one run by torch's FLOP counter.

    The counter does not know the CPU's fused attention, so attention runs as matrix products.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return counter.get_total_flops() // 2


def said(program: graphc.Program, kept: Mapping[Axis, Sequence[int]]) -> tuple[int, int]:
    """Parameters and MACs that the polynomials give for a cut that is not yet made."""
    analysis = analyze(program)
    named = {axis.name: axis for axis in analysis.axes}
    cost = budget(analysis, {named[axis.name]: len(units) for axis, units in kept.items()})
    return cost.params, cost.macs


def train_one_step(program: graphc.Program) -> None:
    """One step of SGD on a copy: gradients must come, and all parameters stay finite."""
    own = {
        name: torch.nn.Parameter(value.detach().clone())
        for name, value in program.tensors().items()
        if isinstance(value, torch.nn.Parameter)
    }
    training = graphc.set_training(rebuild(program, tensors=own), True)
    args, kwargs = program.example()
    optimizer = torch.optim.SGD(training.parameters(), lr=1e-4)
    results = [v.float() for v in pytree.tree_leaves(training(*args, **kwargs)) if isinstance(v, torch.Tensor)]
    scales = [value.detach().abs().max().clamp(min=1e-9) for value in results]
    loss = sum((value / scale).square().mean() for value, scale in zip(results, scales, strict=True))
    assert isinstance(loss, torch.Tensor)
    loss.backward()  # type: ignore[no-untyped-call] # torch
    assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in training.parameters())
    optimizer.step()
    assert all(bool(torch.isfinite(p).all()) for p in training.parameters())


def prove(case: Case) -> Result:
    """All proofs for one model; raises AssertionError where one fails."""
    start = time.perf_counter()
    torch.manual_seed(SEED)
    program = graphc.capture(randomise(case.build()), (), case.inputs, dynamic=case.dynamic)
    free = [axis for axis in graphc.find_axes(program) if axis.pinned is None]
    exact = half([axis for axis in free if not axis.mixed])
    sliced, masked = graphc.slice(program, exact), graphc.mask(program, exact)
    graphc.verify(sliced)
    before, cut, reference = (outputs(p, case.other) for p in (program, sliced, masked))
    error = float((cut - reference).norm() / reference.norm())
    moved = float((before - reference).norm() / before.norm())
    agree = said(program, exact) == counted(sliced)
    everything = half(free)
    smallest = graphc.slice(program, everything)
    agree = agree and said(program, everything) == counted(smallest)
    assert bool(torch.isfinite(outputs(smallest, case.other)).all())
    train_one_step(smallest)
    args, kwargs = smallest.example()
    again = graphc.capture(smallest.module, args, kwargs, dynamic=case.dynamic)
    assert torch.allclose(outputs(again, case.other), outputs(smallest, case.other), atol=1e-6, rtol=1e-5)
    whole, part, least = (sum(p.numel() for p in x.parameters()) for x in (program, sliced, smallest))
    count, mixed = len(exact), len(everything) - len(exact)
    seconds = time.perf_counter() - start
    return Result(case.name, count, mixed, error, moved, part / whole, least / whole, agree, seconds)


def good(result: Result) -> bool:
    """Does a result hold? A cut that moves nothing would prove nothing."""
    return result.error <= 1e-5 and result.moved >= 1e-3 and result.exact


def main() -> int:
    """Prove all models, or those whose names begin with a word given; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    chosen = parser.parse_args().models
    console = Console(width=150)
    console.print(environment(), f"seed {SEED}")
    table = Table("model", "axes", "mixed", "sliced vs masked", "cut moved", "params", "mixed too", "counts equal", "s")
    results = [prove(case) for case in cases() if not chosen or any(case.name.startswith(word) for word in chosen)]
    for r in results:
        row = (
            f"{r.axes}",
            f"{r.mixed}",
            f"{r.error:.1e}",
            f"{r.moved:.1%}",
            f"{r.params:.1%}",
            f"{r.params_mixed:.1%}",
        )
        table.add_row(r.name, *row, "yes" if r.exact else "NO", f"{r.seconds:.1f}")
    console.print(table)
    console.print(f"{sum(map(good, results))} of {len(results)} hold")
    return 0 if all(map(good, results)) else 1


if __name__ == "__main__":
    sys.exit(main())
