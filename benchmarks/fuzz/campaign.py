"""A campaign: many seeds, what came of each, and the table of it."""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import torch
import yaml
from rich.console import Console

from benchmarks.fuzz.cases import recipe_of
from benchmarks.fuzz.oracle import Outcome, judge
from benchmarks.quality.study import conclude, outcomes
from graphc.measure import environment

DESCRIPTION = """Random recipes over random small nets: every compile ends proven, or is refused with a GraphError.

    python -m benchmarks.fuzz [--recipes 2000] [--seed 0] [--jobs 1] [--kept FILE] [--only SEED]

Recipes are drawn by hypothesis from the JSON schema, nets from their blocks (``recipes.py``, ``describe.py``). What
comes of each seed is kept in a file, so that an interrupted run goes on; ``--only`` runs one seed again, and shows it.
Ends with 1 if a file, a cut or a report is wrong, or if a compile raises anything but a GraphError.
"""
WHOLE = 2000
"""Recipes of a whole run."""
OUT = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Case:
    """A recipe, by its seed."""

    number: int


def run(case: Case) -> Outcome:
    """What comes of a case."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judge(recipe_of(case.number))


def by_pass(found: Mapping[Case, Outcome]) -> list[list[str]]:
    """For each pass: recipes that have it, those that end verified, and where it was the one that refused."""
    every = Counter(name for outcome in found.values() for name in set(outcome.passes))
    verified = Counter(name for o in found.values() if o.kind == "verified" for name in set(o.passes))
    refusing = Counter(o.passes[o.done] for o in found.values() if o.kind == "refused" and o.done < len(o.passes))
    return [
        [name, str(count), f"{verified[name]} ({verified[name] / count:.0%})", str(refusing[name])]
        for name, count in every.most_common()
    ]


def notes(found: Mapping[Case, Outcome]) -> list[str]:
    """Counts, checks, the most frequent refusals, and every seed that is not as it should be."""
    kinds = Counter(outcome.kind for outcome in found.values())
    checks = sum((Counter(outcome.checks) for outcome in found.values()), Counter[str]())
    why = Counter(outcome.why for outcome in found.values() if outcome.kind == "refused")
    first, last = min(case.number for case in found), max(case.number for case in found)
    lines = [
        environment_line(),
        f"{len(found)} recipes, seeds {first} to {last}, of the {WHOLE} of a whole run: "
        + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS),
        f"held against something of their own: {checks['files']} runs of files, {checks['sliced']} cuts against "
        f"programs masked by hand, {checks['same']} passes that may change no output",
        f"{sum(o.unproven for o in found.values())} refused because a file did not pass graphc's own proof",
        f"{sum(o.seconds for o in found.values()) / max(len(found), 1):.1f} processor seconds a recipe",
        *(f"refused {count} times: {text}" for text, count in why.most_common(15)),
    ]
    bad = [(case, outcome) for case, outcome in found.items() if outcome.kind in BAD or outcome.unproven]
    return [*lines, *(f"seed {case.number}, {o.kind}: {', '.join(o.passes)}: {o.why}" for case, o in bad)]


KINDS = ("verified", "refused", "wrong", "crashed")
BAD = ("wrong", "crashed")


def environment_line() -> str:
    """The machine and the versions."""
    return f"{environment()}, hypothesis {hypothesis.__version__}"


def show(number: int, console: Console) -> int:
    """One seed: its recipe, and what comes of it."""
    console.print(yaml.safe_dump(recipe_of(number), sort_keys=False), markup=False, highlight=False)
    outcome = run(Case(number))
    console.print(f"{outcome.kind}: {outcome.why}\n{outcome.detail}", markup=False, highlight=False)
    return int(outcome.kind in BAD)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases that are not kept yet, and say what came of them."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=WHOLE)
    parser.add_argument("--seed", type=int, default=0, help="of the first recipe; the next have the numbers after it")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=Path("fuzz.jsonl"), help="outcomes by seed, one a line")
    parser.add_argument("--only", type=int, help="run one seed and show all of it")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the table")
    options = parser.parse_args(arguments)
    console = Console(width=150)
    if options.only is not None:
        return show(options.only, console)
    cases = [Case(number) for number in range(options.seed, options.seed + options.recipes)]
    found = outcomes(cases, run, (Case, Outcome), options.kept, options.jobs, console)
    found = {case: found[case] for case in cases}
    kinds = Counter(outcome.kind for outcome in found.values())
    claims = {
        "no file, cut or report is wrong": kinds["wrong"] == 0,
        "no exception but a GraphError": kinds["crashed"] == 0,
        "at least half of the recipes end verified": 2 * kinds["verified"] >= len(found),
    }
    columns = ("pass", "recipes with it", "of them verified", "refused by it")
    return conclude("fuzz", columns, by_pass(found), notes(found), claims, options.out, console)
