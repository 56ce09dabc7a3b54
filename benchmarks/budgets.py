"""Budgets on real networks: what was asked, what was reached, and what the next legal size would have been.

    python -m benchmarks.budgets [--count N]

Draws combinations of network, constraints, ranking, importance and ``round_to``, prunes, and counts by
torch's own counter. Every reached value must be at most the budget, and within 1 % of it; or giving
back one step of ``round_to`` units can cost more than that. Where a budget is below what the rest of a
network costs, the pass must refuse and say the least that it can reach. Exit code 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from graphc.passes import PruneFilters, PruneWidth
from rich.console import Console
from rich.progress import track
from rich.table import Table

import graphc
from benchmarks import models
from benchmarks.soundness import macs_of
from graphc.coupling import analyze
from graphc.coupling.cost import budget, one_sample
from graphc.measure.environment import environment

VISION = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "convnext_tiny")
TEXT = ("bert", "gpt2", "llama", "vit")
WITHIN = 1.0
"""Points of the whole cost that a reached value may be below its budget."""


@dataclass(frozen=True)
class Draw:
    """One combination."""

    model: str
    constraints: tuple[tuple[str, int], ...]
    ranking: Any
    importance: str
    round_to: int


@dataclass(frozen=True)
class Outcome:
    """Per cent of each cost, the points that the tightest budget was undershot by, and the greatest single step."""

    reached: Mapping[str, float]
    gap: float
    step: float
    counted: bool


def draws(count: int) -> list[Draw]:
    """The combinations, always the same ones."""
    pick = random.Random(0).choice
    made = []
    for _ in range(count):
        kinds = pick([("macs",), ("params",), ("bytes",), ("macs", "params")])
        made.append(
            Draw(
                pick([*VISION, *TEXT]),
                tuple((kind, pick([35, 50, 65, 80])) for kind in kinds),
                pick(["local", "global", "isomorphic"]),
                pick(["l1", "l2", "lamp"]),
                pick([1, 1, 4, 8]),
            )
        )
    return made


@cache
def program_of(name: str) -> graphc.Program:
    """A network, untrained, captured."""
    case = models.vision(name) if name in VISION else models.transformer(name, "sdpa")
    torch.manual_seed(0)
    return graphc.capture(case.build().eval(), (), case.inputs, dynamic=case.dynamic)


def prove(draw: Draw) -> Outcome:
    """Prune to the budget, and see how far it is from it."""
    program = program_of(draw.model)
    kind = PruneFilters if draw.model in VISION and draw.model != "convnext_tiny" else PruneWidth
    prune = kind(
        constraints={name: f"{share}%" for name, share in draw.constraints},
        ranking=draw.ranking,
        importance=draw.importance,
        round_to=draw.round_to,
        mixed=True,
    )
    done = graphc.compile(program, passes=[prune]).program
    first, last = (budget(analyze(p), None, **one_sample(p)) for p in (program, done))
    reached = {name: getattr(last, name) / getattr(first, name) * 100 for name, _ in draw.constraints}
    gap = min(share - reached[name] for name, share in draw.constraints)
    return Outcome(reached, gap, step_of(program, done, prune, draw), counted(done))


def step_of(program: graphc.Program, done: graphc.Program, prune: Any, draw: Draw) -> float:
    """Points that one more step of units would cost, on the axis where it costs most."""
    whole = {axis.name: axis.size for axis in prune.candidates(analyze(program))}
    analysis = analyze(done)
    now, first = budget(analysis, None, **one_sample(done)), budget(analyze(program), None, **one_sample(program))
    steps = []
    for axis in analysis.axes:
        if axis.size < whole.get(axis.name, 0):
            more = budget(analysis, {axis: min(whole[axis.name], axis.size + draw.round_to)}, **one_sample(done))
            steps.append(
                max((getattr(more, k) - getattr(now, k)) / getattr(first, k) * 100 for k, _ in draw.constraints)
            )
    return max(steps, default=0.0)


def counted(done: graphc.Program) -> bool:
    """Does torch's own counter agree with the polynomials?"""
    args, kwargs = done.example()
    return macs_of(done, *args, **kwargs) == budget(analyze(done)).macs


def good(draw: Draw, found: Outcome) -> bool:
    """At most the budget; within 1 % of it, or less than one step away."""
    below = all(found.reached[kind] <= share for kind, share in draw.constraints)
    return below and found.counted and (found.gap <= WITHIN or found.gap < found.step)


def main() -> int:
    """Print every draw; 1 if one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    console.print(environment(), "seed 0")
    table = Table("model", "asked", "ranking", "importance", "round_to", "reached", "gap", "one step", "holds")
    held = 0
    made = draws(options.count)
    for draw in track(made, "budgets", console=console):
        asked = ", ".join(f"{kind} {share}%" for kind, share in draw.constraints)
        try:
            found = prove(draw)
        except graphc.GraphError as error:
            least = re.search(r"least that it can reach is (.*);", error.why)
            holds, figures = least is not None, (f"refused, least {least[1] if least else error}", "", "")
        else:
            holds = good(draw, found)
            reached = ", ".join(f"{value:.2f}%" for value in found.reached.values())
            figures = (reached, f"{found.gap:.2f}", f"{found.step:.2f}")
        held += holds
        row = (draw.model, asked, draw.ranking, draw.importance, str(draw.round_to), *figures)
        table.add_row(*row, "yes" if holds else "NO")
    console.print(table)
    console.print(f"{held} of {len(made)} hold")
    return 0 if held == len(made) else 1


if __name__ == "__main__":
    sys.exit(main())
