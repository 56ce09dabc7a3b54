"""Cases: the recipe of a seed, always the same one."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.fuzz.recipes import recipes

SETTINGS: dict[str, Any] = {
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}


def recipe_of(number: int) -> dict[str, Any]:
    """The recipe of a seed: hypothesis's third example, as its first is the least one always."""
    found: list[dict[str, Any]] = []

    @seed(number)
    @settings(max_examples=3, **SETTINGS)
    @given(recipes())
    def collect(recipe: dict[str, Any]) -> None:
        found.append(recipe)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collect()
    return found[-1]
