"""Sampler: how Optuna proposes candidates, alike in one process and apart in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from graphc.pipeline.search_section import Search
from graphc.pipeline.search_space import Choice, is_integer


class Sampler(BaseSampler):
    """Draws anew for each trial, from the seed and the trial's number.

    So processes that share a study do not draw alike, and a study that was stopped goes on as if it had not been.
    """

    def __init__(self, options: Search, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.inner = self._made(0)

    def _made(self, number: int) -> BaseSampler:
        seed = (self.seed * 1_000_003 + number) % 2**32
        if self.options.sampler == "nsga-ii":
            return NSGAIISampler(population_size=self.options.population_size, seed=seed)
        return TPESampler(seed=seed) if self.options.sampler == "tpe" else RandomSampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin anew."""
        self.inner = self._made(trial.number)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As Optuna's own."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna's own."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As Optuna's own."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """As Optuna's own."""
        self.inner.after_trial(study, trial, state, values)


def suggest(trial: Trial, choice: Choice) -> Any:
    """A value of a choice."""
    span = choice.range
    if span is None:
        return trial.suggest_categorical(choice.name, list(choice.values))
    if is_integer(span):
        return trial.suggest_int(choice.name, int(span.low), int(span.high), step=int(span.step or 1), log=span.log)
    return trial.suggest_float(choice.name, span.low, span.high, step=span.step, log=span.log)
