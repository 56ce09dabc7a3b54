"""Search: candidates of a recipe's options, tried under constraints, by as many processes as there are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from graphc.errors import GraphError, RecipeError
from graphc.pipeline.amounts import amount
from graphc.pipeline.base import make_pass
from graphc.pipeline.metrics import find_metric
from graphc.pipeline.perform import Watch
from graphc.pipeline.plan import check_metric
from graphc.pipeline.recipe import Recipe
from graphc.pipeline.search_result import Candidate, Found, on_front, recipe_file, write
from graphc.pipeline.search_section import Search
from graphc.pipeline.search_space import Params, SearchSpace, Spec, read_space, shared, title
from graphc.pipeline.search_trial import METRIC, Start, check_candidate, estimator, misses, start

if TYPE_CHECKING:
    from graphc.pipeline.search_study import Known, Outcome, Study

POLL = 1.0
"""At most so many seconds between looks at what other processes do."""


def search(
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
    resume: bool = False,
    home: Path | None = None,
    watch: Watch = lambda event, about: None,
) -> Found:
    """Try candidates of what the recipe's section ``search`` lets choose.

    Several processes may do this at once with one folder or one storage: they share one study.

    Args:
        recipe: with a section ``search``.
        folder: where the study, ``search.json`` and the recipes of the best candidates go.
        device: where training and calibration run.
        resume: go on with the study that is there, alone or beside other processes.
        home: the folder of the recipe, whose modules its targets may be in.
        watch: called with each event: ``captured evaluated pass progress trying tried waiting``.

    Raises:
        GraphError: something in the recipe is wrong (before any long work), there is a study and ``resume`` is not
            given, or no candidate keeps the constraints: says which comes nearest, and by how much it misses them.
    """
    options = _section(recipe)
    studies = _find_studies()
    _space(recipe, options, None)
    objectives, estimate = _objectives(recipe, options), estimator(recipe)
    opened = studies.open_study(options, folder, _name(recipe), objectives, recipe.seed, resume)
    common = recipe.passes[: shared(recipe.passes, options.choices)]
    wanted = frozenset({*objectives, *options.constraints})
    begun = start(recipe, common, folder, device, wanted, estimate, watch)
    space = _space(recipe, options, begun)
    study: Study = studies.Study(opened, space, options.heartbeat, objectives)
    baseline = study.baseline(begun.baseline)
    limits: dict[str, float] = {
        k: amount(k, value, baseline[k], "search.constraints") for k, value in options.constraints.items()
    }

    def take(params: Params) -> Outcome:
        try:
            passes = check_candidate(recipe, space.passes(params))[len(common) :]
            figures = begun.figures(passes, limits)
        except GraphError as error:
            outcome: Outcome = studies.Outcome(refused="; ".join(filter(None, (error.what, error.where, error.why))))
            return outcome
        outcome = studies.Outcome(figures, misses(figures, limits))
        return outcome

    known = _tried(study, options.trials, take, watch)
    found = _found(recipe, space, objectives, baseline, limits, known)
    numbers = {candidate.number for candidate in found.pareto}
    write(found, {k.number: space.passes(k.params) for k in known if k.number in numbers}, recipe, folder, home)
    if not numbers:
        raise _nothing(found)
    return found


def _find_studies() -> ModuleType:
    """What needs Optuna.

    Raises:
        GraphError: it is not installed.
    """
    try:
        from graphc.pipeline import search_study  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise GraphError("a search needs optuna", why=str(error), hint="pip install 'graphc[search]'") from error
    return search_study


def _section(recipe: Recipe) -> Search:
    options = recipe.search
    if options is None or not options.choices:
        hint = "add `search: {choices: {prune-filters: {pruning_ratio: {low: 0.2, high: 0.8}}}}` to the recipe"
        raise RecipeError("there is nothing to choose", where="search.choices", hint=hint)
    for kind, value in options.constraints.items():
        amount(kind, value, 1.0, "search.constraints")
    return options


def _objectives(recipe: Recipe, options: Search) -> dict[str, bool]:
    """The objectives, each with whether greater is better.

    Raises:
        RecipeError: the metric is one, and the recipe has none, or no data for it.
    """
    wanted = options.wanted()
    if METRIC not in wanted:
        return dict.fromkeys(wanted, False)
    if recipe.metric is None:
        hint = "add `metric: accuracy` and `data: {eval: ...}`, or search.objectives without it"
        raise RecipeError("the search needs a metric", where="metric", hint=hint)
    check_metric(recipe.metric, recipe.data)
    return {name: name == METRIC and find_metric(recipe.metric).greater_is_better for name in wanted}


def _space(recipe: Recipe, options: Search, begun: Start | None) -> SearchSpace:
    """What may be chosen, each value of it checked; what passes offer themselves, once there is a program.

    Raises:
        RecipeError: something is no choice, or a value is wrong.
    """
    written = read_space(recipe.passes, options.choices)

    def offers(name: str) -> Mapping[str, Any]:
        assert begun is not None
        first, _ = written.corners
        specs: dict[str, Spec] = {title(spec): spec for spec in written.passes(first)}
        return make_pass(specs[name], f"the pass {name}").offers(begun.program)

    space = written if begun is None else read_space(recipe.passes, options.choices, offers)
    if begun is None or space != written:
        check_candidate(recipe, space.passes(space.corners[0]))
        for choice, params in space.variants():
            try:
                check_candidate(recipe, space.passes(params))
            except RecipeError as error:
                raise RecipeError(error.what, where=choice.where, why=error.why, hint=error.hint) from error
    return space


def _name(recipe: Recipe) -> str:
    """The same for the same search, of which there may be more trials."""
    left_out: dict[str, Any] = {"emit": True, "search": {"trials", "storage", "heartbeat"}}
    text = json.dumps(recipe.model_dump(mode="json", exclude=left_out), sort_keys=True)
    return f"graphc-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _tried(study: Study, trials: int, take: Callable[[Params], Outcome], watch: Watch) -> Sequence[Known]:
    """Try candidates until all processes together have tried so many."""
    while True:
        tally = study.tally()
        done = len(tally.known)
        if done + tally.running < trials and not tally.ended:
            watch("trying", (done + 1, trials))
            known = study.advance(take)
            if known is not None:
                watch("tried", known)
        elif tally.running:
            watch("waiting", tally.running)
            time.sleep(min(POLL, study.heartbeat))
        else:
            return tally.known


def _found(
    recipe: Recipe,
    space: SearchSpace,
    objectives: Mapping[str, bool],
    baseline: Mapping[str, float],
    limits: Mapping[str, float],
    known: Sequence[Known],
) -> Found:
    def candidate(told: Known, numbers: set[int]) -> Candidate:
        return Candidate(
            number=told.number,
            choices={choice.name: choice.value(told.params[choice.name]) for choice in space.choices},
            figures=told.figures,
            misses=misses(told.figures, limits),
            refused=told.refused,
            pareto=told.number in numbers,
            recipe=recipe_file(told.number) if told.number in numbers else None,
        )

    numbers = on_front([candidate(told, set()) for told in known], objectives)
    metric = recipe.metric if METRIC in objectives else None
    return Found(metric, objectives, baseline, limits, tuple(candidate(told, numbers) for told in known))


def _nothing(found: Found) -> GraphError:
    """That no candidate can be had, and which comes nearest."""
    nearest = found.nearest
    if nearest is None:
        why = f"candidate {found.candidates[0].number}: {found.candidates[0].refused}"
        return GraphError(f"all {len(found.candidates)} candidates were refused", where="search.choices", why=why)
    missed = ", ".join(
        f"{kind} {nearest.figures[kind]:,.6g} for {found.limits[kind]:,.6g} ({miss:.1%} too much)"
        for kind, miss in nearest.misses.items()
        if miss > 0
    )
    chosen = ", ".join(f"{name} {value}" for name, value in nearest.choices.items())
    return GraphError(
        f"none of {len(found.candidates)} candidates keeps the constraints",
        where="search.constraints",
        why=f"the nearest, candidate {nearest.number}, has {missed}; it is {chosen}",
        hint="allow more, let smaller values be chosen, or try more candidates (--trials, --resume)",
    )
