"""Trial: the figures of one candidate, found by running its passes as a compile does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch.fx import GraphModule

from graphc.errors import RecipeError
from graphc.ir.program import Program
from graphc.measure.cost import cost
from graphc.measure.table_file import open_table
from graphc.pipeline.base import COSTS, Context, Pass
from graphc.pipeline.cache import open_cache
from graphc.pipeline.latency import milliseconds, sizes_of
from graphc.pipeline.perform import Watch, begin, perform
from graphc.pipeline.plan import check_data, check_opset, check_references, emit_options, plan
from graphc.pipeline.recipe import Bench, Recipe, check_names

LATENCY = "latency_ms"
METRIC = "metric"
Estimate = Callable[[Program], float]
"""Milliseconds of one run."""
Limits = Mapping[str, float]


def misses(figures: Mapping[str, float], limits: Limits) -> dict[str, float]:
    """By how much each figure is above its limit, as a share of the limit; negative below it."""
    return {kind: figures[kind] / limit - 1 for kind, limit in limits.items() if kind in figures}


def fits(figures: Mapping[str, float], limits: Limits) -> bool:
    """Is no figure above its limit?"""
    return all(miss <= 0 for miss in misses(figures, limits).values())


def check_candidate(recipe: Recipe, specs: Sequence[Mapping[str, Any]]) -> list[Pass]:
    """The passes of a candidate, checked as those of a recipe.

    Raises:
        RecipeError: a type, option, value, reference or data is wrong.
    """
    passes = recipe.model_copy(update={"passes": [dict(spec) for spec in specs]}).make_passes()
    check_names(passes)
    check_data(passes, recipe.data)
    check_references(passes)
    check_opset(passes, recipe.opset_version)
    return passes


def estimator(recipe: Recipe) -> Estimate:
    """Predicts latency by the table of the search, or measures it as the recipe's ``bench`` says.

    Raises:
        GraphError: there is no such table, or it holds for another machine, runtime or number of threads.
    """
    bench = recipe.bench or Bench()
    path = recipe.search.latency_table if recipe.search is not None else None
    if path is None:
        options = emit_options("model.onnx", recipe.opset_version, recipe.optimize)
        return lambda program: milliseconds(program, bench, options)
    if not Path(path).is_file():
        hint = "make it with `graphc latency-table RECIPE -o FILE`"
        raise RecipeError(f"there is no latency table {path!r}", where="search.latency_table", hint=hint)
    table = open_table(path, bench.threads)
    return lambda program: table.predict(table.take_apart(program, sizes_of(program, bench))).ms


@dataclass(frozen=True)
class Start:
    """What all candidates start from: the model after the passes that they have in common.

    Attributes:
        program: it.
        context: what passes may use.
        done: names of these passes.
        wanted: the figures that count.
        estimate: of latency.
        latencies: those that are known.
    """

    program: Program
    context: Context
    done: tuple[str, ...]
    wanted: frozenset[str]
    estimate: Estimate
    latencies: WeakKeyDictionary[GraphModule, float]

    def baseline(self) -> dict[str, float]:
        """The figures of the model as captured."""
        found = self._figures(self.context.original, [*COSTS, LATENCY])
        if METRIC in self.wanted and self.context.evaluator is not None:
            found[METRIC] = self.context.evaluator.baseline
        return found

    def figures(self, passes: Sequence[Pass], limits: Limits) -> dict[str, float]:
        """The figures of a candidate; of one that is above a limit those that show it, before anything slow is done.

        Args:
            passes: those after the passes in common.
            limits: of costs and latency.

        Raises:
            GraphError: a pass refuses, or its result breaks the contract.
        """
        evaluator, program, done = self.context.evaluator, self.program, list(self.done)
        states = dict(self.context.states)
        context = replace(self.context, states=states)
        for place, item in enumerate(passes):
            settled = self._settled(program, passes[place:], limits)
            if not fits(settled, limits):
                return settled
            program, _ = perform(item, program, context, done)
            done.append(item.title)
            states[item.title] = program
        found = self._settled(program, (), limits)
        if METRIC in self.wanted and evaluator is not None and fits(found, limits):
            found[METRIC] = evaluator(program)
        return found

    def _settled(self, program: Program, rest: Sequence[Pass], limits: Limits) -> dict[str, float]:
        """What the passes that are left cannot make less; the latency only of what is within all else."""
        less = {kind for item in rest for kind in item.reduces()}
        found = self._figures(program, [kind for kind in COSTS if kind not in less])
        if not less and fits(found, limits):
            found |= self._figures(program, [LATENCY])
        return found

    def _figures(self, program: Program, kinds: Sequence[str]) -> dict[str, float]:
        costs = [kind for kind in kinds if kind != LATENCY]
        now = cost(program).to_dict() if costs else {}
        found: dict[str, float] = {kind: now[kind] for kind in costs}
        if LATENCY in kinds and LATENCY in self.wanted:
            if program.module not in self.latencies:
                self.latencies[program.module] = self.estimate(program)
            found[LATENCY] = self.latencies[program.module]
        return found


def start(
    recipe: Recipe,
    specs: Sequence[Mapping[str, Any]],
    folder: Path,
    device: str,
    wanted: frozenset[str],
    estimate: Estimate,
    watch: Watch,
) -> Start:
    """Capture the model and run the passes that all candidates have in common.

    Args:
        recipe: of the search.
        specs: those passes.
        folder: where things are written; emitting is checked for it.
        device: where training and calibration run.
        wanted: the figures that count.
        estimate: of latency.
        watch: told what happens.

    Raises:
        GraphError: the recipe is wrong, or a pass refuses.
    """
    made = plan(recipe.model_copy(update={"passes": [dict(spec) for spec in specs]}), folder, device)
    made = replace(made, output_dir=None)  # several processes may be in the folder at once
    states: dict[str, Program] = {}
    context, cache = replace(begin(made, watch), states=states), open_cache(made)
    program = made.original
    for item in made.passes:
        watch("pass", item)
        program, _ = perform(item, program, context, list(states), cache, watch)
        states[item.title] = program
    return Start(program, context, tuple(states), wanted, estimate, WeakKeyDictionary())
