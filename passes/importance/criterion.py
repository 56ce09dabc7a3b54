"""Criterion: how much each unit of an axis matters. One function a criterion, found by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from graphc.axes.axis import Axis
from graphc.coupling import Analysis
from graphc.errors import GraphError, RecipeError, nearest

from ..calibration import Calibration

Parts = Mapping[Axis, list[torch.Tensor]]
"""For each axis one tensor ``[axis.size]`` (float64, CPU) from each place where it counts."""

Reduction = Literal["sum", "mean", "max"]
Normalization = Literal["none", "mean", "max", "std"]

REDUCTIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda parts: parts.sum(0),
    "mean": lambda parts: parts.mean(0),
    "max": lambda parts: parts.amax(0),
}

NORMALIZATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda scores: scores,
    "mean": lambda scores: _divided(scores, scores.mean()),
    "max": lambda scores: _divided(scores, scores.max()),
    "std": lambda scores: _divided(scores - scores.mean(), scores.std(correction=0)),
}


def _divided(scores: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return scores / by if float(by) != 0 else scores


@dataclass(frozen=True)
class Criterion:
    """One way to score.

    Attributes:
        name: in recipes.
        parts: scores in each place where an axis counts.
        finish: what becomes of the reduced scores.
        normalization: what makes its scores comparable between axes.
        needs_data: it runs the program on calibration data, labelled if it says so.
        by_tensor: it reads one tensor after the other, and holds not much more than one of them.
    """

    name: str
    parts: Callable[[Analysis, Sequence[Axis], Calibration], Parts]
    finish: Callable[[torch.Tensor], torch.Tensor] = field(default=lambda scores: scores)
    normalization: Normalization = "mean"
    needs_data: bool = False
    by_tensor: bool = False


CRITERIA: dict[str, Criterion] = {}


def criterion(
    *,
    finish: Callable[[torch.Tensor], torch.Tensor] = lambda scores: scores,
    normalization: Normalization = "mean",
    needs_data: bool = False,
    by_tensor: bool = False,
) -> Callable[[Callable[[Analysis, Sequence[Axis], Calibration], Parts]], Callable[..., Parts]]:
    """Make a function a criterion under its own name."""

    def register(parts: Callable[[Analysis, Sequence[Axis], Calibration], Parts]) -> Callable[..., Parts]:
        CRITERIA[parts.__name__] = Criterion(parts.__name__, parts, finish, normalization, needs_data, by_tensor)
        return parts

    return register


def find_criterion(name: str) -> Criterion:
    """The criterion of this name.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if name not in CRITERIA:
        raise RecipeError(f"no importance is called {name!r}", where="importance", hint=nearest(name, CRITERIA))
    return CRITERIA[name]


def criterion_in_memory(name: str) -> str:
    """Why a criterion needs all weights in memory; empty if it does not.

    Raises:
        RecipeError: there is no such criterion.
    """
    found = find_criterion(name)
    if found.by_tensor:
        return ""
    why = "runs the program on data" if found.needs_data else "compares all units with each other"
    known = ", ".join(sorted(one.name for one in CRITERIA.values() if one.by_tensor))
    return f"importance: {name} {why}; {known} take one weight after the other"


def score(
    analysis: Analysis,
    axes: Sequence[Axis],
    importance: str,
    calibration: Calibration | None = None,
    reduction: Reduction = "sum",
    normalization: Normalization = "none",
) -> dict[Axis, torch.Tensor]:
    """Importance of each unit of some axes.

    Args:
        analysis: of the program.
        axes: leaves.
        importance: name of a criterion.
        calibration: data, for criteria that need some.
        reduction: how the scores of an axis's members become one.
        normalization: how scores of different axes are made comparable: divided by the axis's
            mean or greatest score, or with its mean taken off and divided by its standard deviation.

    Returns:
        float64 scores of shape ``[axis.size]``, on the CPU.

    Raises:
        GraphError: the criterion says nothing of an axis, data is missing, or a score is not finite.
    """
    found = find_criterion(importance)
    parts = found.parts(analysis, axes, calibration or Calibration())
    scores: dict[Axis, torch.Tensor] = {}
    for axis in axes:
        if not parts.get(axis):
            raise GraphError(
                f"the importance {importance!r} says nothing of the axis {axis.name!r}",
                why=f"no place where {importance} counts has the axis ({', '.join(sorted(axis.roles)) or 'no role'})",
                hint="leave the axis out by `ignore`, or choose another importance",
            )
        reduced = found.finish(REDUCTIONS[reduction](torch.stack(parts[axis])))
        if not bool(torch.isfinite(reduced).all()):
            why = "weights, activations or gradients that it is made from are not"
            raise GraphError(f"the {importance} scores of the axis {axis.name!r} are not finite", why=why)
        scores[axis] = NORMALIZATIONS[normalization](reduced)
    return scores
