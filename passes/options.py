"""Options that several passes have, each with what it accepts and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from .importance import CRITERIA, Normalization, Reduction

Ratio = Annotated[float | None, Field(gt=0, lt=1, description="Share of the units to remove.")]
Ratios = Annotated[
    dict[str, Annotated[float, Field(ge=0, lt=1)]],
    Field(description="Ratios of their own for some axes: {name or re:pattern: ratio}; 0 leaves an axis alone."),
]
MostRatio = Annotated[float, Field(gt=0, le=1, description="No axis loses more than this share of its units.")]
MinSize = Annotated[int, Field(ge=1, description="No axis keeps fewer units than this.")]
Importance = Annotated[str, Field(description=f"How units are scored: {', '.join(sorted(CRITERIA))}.")]
Reduced = Annotated[Reduction, Field(description="How the scores of all tensors that have an axis become one.")]
Normalized = Annotated[
    Normalization | None,
    Field(description="What makes scores of different axes comparable; by default what the importance asks for."),
]
Scope = Annotated[
    Literal["local", "global", "isomorphic"],
    Field(description="Rank units within their axis, all together, or with the axes that play the same part."),
]
RoundTo = Annotated[int, Field(ge=1, description="What is left is a multiple of this; kernels like 8 or 16.")]
Names = Annotated[tuple[str, ...], Field(description="Module paths, axis names, or patterns written re:...")]
Limits = Annotated[
    dict[str, str | float],
    Field(description="Budgets macs, params, bytes, latency_ms: numbers, or percentages of what the program has."),
]
TablePath = Annotated[
    str | None,
    Field(description="Where the latency table of latency_ms is, or goes to; by default into the output folder."),
]
LatencyThreads = Annotated[int, Field(ge=1, description="Threads that latency_ms is meant for.")]
LatencyDims = Annotated[
    dict[str, Annotated[int, Field(ge=1)]],
    Field(description="Sizes of dynamic dims that latency_ms is meant for: {batch: 1, sequence: 128}."),
]
Steps = Annotated[int, Field(ge=1, description="Remove in so many steps; importance is computed anew for each.")]
Schedule = Annotated[
    Literal["linear", "cubic"],
    Field(description="How the steps grow: evenly, or 1 - (1 - t)^3, most of it first."),
]
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cubic": lambda t: 1 - (1 - t) ** 3,
}
Between = Annotated[
    tuple[dict[str, Any], ...], Field(description="Passes that run after each step, such as a training stage.")
]
DataName = Annotated[str, Field(description="Which of the recipe's data to calibrate on.")]
Samples = Annotated[int | None, Field(ge=1, description="How many samples of it to use; all by default.")]
LossName = Annotated[str, Field(description="cross-entropy, mse, or package.module:callable of outputs and labels.")]
Measured = Annotated[
    str | None, Field(description="A sensitivity.json: importance is weighted by what its items cost when compressed.")
]
Selection = dict[str | int, list[int]]
