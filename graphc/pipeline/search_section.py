"""The section ``search`` of a recipe: what may be chosen, under which constraints, and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from graphc.pipeline.strict import Strict

Kind = Literal["macs", "params", "bytes", "latency_ms"]
Objective = Literal["metric", "macs", "params", "bytes", "latency_ms"]


class Range(Strict):
    """A number between two: an integer if both are."""

    low: int | float = Field(description="The least value.")
    high: int | float = Field(description="The greatest.")
    step: int | float | None = Field(default=None, gt=0, description="Values are low, low + step, and so on.")
    log: bool = Field(default=False, description="Draw evenly on a logarithmic scale.")


class Search(Strict):
    """How the options of the passes are chosen."""

    choices: dict[str, Any] = Field(
        default_factory=dict,
        description="By pass, and in it by option as deep as need be: a list of values, {low, high, step, log}; or, "
        "for each axis, block or layer that the pass offers by name, all that it can have, or {each: a choice}. "
        "A list for a whole pass has options for it, or null to leave it out.",
    )
    constraints: dict[Kind, float | str] = Field(
        default_factory=dict, description="Budgets: numbers, or percentages of what the model has."
    )
    objectives: tuple[Objective, ...] = Field(
        default=(), description="What is better; by default the metric and what is constrained, or MACs."
    )
    sampler: Literal["nsga-ii", "tpe", "random"] = Field(default="nsga-ii", description="How candidates are proposed.")
    population_size: int = Field(default=20, ge=2, description="Of NSGA-II.")
    trials: int = Field(default=50, ge=1, description="Candidates in all, by all processes of the study.")
    latency_table: str | None = Field(default=None, description="Predicts latency_ms; it is measured otherwise.")
    storage: str | None = Field(
        default=None, description="URL of a database of Optuna's; a file in the output folder by default."
    )
    heartbeat: float = Field(
        default=10.0, gt=0, description="Seconds between signs of life; who misses four is taken for dead."
    )

    def wanted(self) -> tuple[Objective, ...]:
        """The objectives, those by default if none are given."""
        return self.objectives or ("metric", *(self.constraints or ("macs",)))
