"""Constraints: budgets as numbers or percentages of what the program costs now."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from graphc.axes.axis import Axis
from graphc.coupling import Analysis
from graphc.coupling.cost import budget, one_sample
from graphc.errors import RecipeError

KINDS = ("macs", "params", "bytes")


def limits(analysis: Analysis, constraints: Mapping[str, str | float]) -> dict[str, float]:
    """Constraints as numbers: ``{"macs": "50%"}`` becomes half of the MACs at batch 1.

    Raises:
        RecipeError: a kind is not known, or a value is neither a positive number nor a percentage.
    """
    now = budget(analysis, None, **one_sample(analysis.program))
    found: dict[str, float] = {}
    for kind, value in constraints.items():
        if kind not in KINDS:
            raise RecipeError(f"no constraint is called {kind!r}", where="constraints", hint=", ".join(KINDS))
        match = re.fullmatch(r"\s*([0-9.]+)\s*%\s*", str(value))
        number = float(match.group(1)) / 100 * getattr(now, kind) if match else _number(kind, value)
        if not 0 < number <= getattr(now, kind):
            why = f"the program has {getattr(now, kind):,} {kind} now"
            raise RecipeError(f"the constraint {kind}: {value} cannot be met", where="constraints", why=why)
        found[kind] = number
    return found


def _number(kind: str, value: str | float) -> float:
    try:
        return float(value)
    except ValueError as error:
        hint = "write a number, or a percentage such as 50%"
        raise RecipeError(f"{kind}: {value!r} is no amount", where="constraints", hint=hint) from error


def fitting(analysis: Analysis, allowed: Mapping[str, float]) -> Callable[[Mapping[Axis, int]], bool]:
    """A test of sizes against all limits at once."""
    dims = one_sample(analysis.program)

    def fits(sizes: Mapping[Axis, int]) -> bool:
        cost = budget(analysis, sizes, **dims)
        return all(getattr(cost, kind) <= limit for kind, limit in allowed.items())

    return fits


def shares(analysis: Analysis, kinds: Iterable[str]) -> dict[str, float]:
    """What the program costs now, for each kind."""
    now = budget(analysis, None, **one_sample(analysis.program))
    return {kind: float(getattr(now, kind)) for kind in kinds}


def reachable(analysis: Analysis, sizes: Mapping[Axis, int], kinds: Iterable[str]) -> str:
    """What the program would cost at some sizes, in words."""
    now, least = (budget(analysis, s, **one_sample(analysis.program)) for s in (None, sizes))
    parts = [(kind, getattr(least, kind), getattr(now, kind)) for kind in kinds]
    return ", ".join(f"{count:,} {kind} ({count / whole:.1%})" for kind, count, whole in parts)
