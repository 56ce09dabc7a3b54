"""Constraints: budgets as numbers or percentages of what the program costs now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from graphc.axes.axis import Axis
from graphc.coupling import Analysis
from graphc.coupling.cost import budget, one_sample
from graphc.errors import RecipeError
from graphc.pipeline.amounts import amount

EXACT = ("macs", "params", "bytes")
"""What follows from the sizes of axes by arithmetic."""
LATENCY = "latency_ms"
"""What is predicted by a function that the caller has, and measured in the end."""
Latency = Callable[[Mapping[Axis, int]], float]
"""Milliseconds of a program at other sizes of some axes."""


def limits(
    analysis: Analysis, constraints: Mapping[str, str | float], latency: Latency | None = None
) -> dict[str, float]:
    """Constraints as numbers: ``{"macs": "50%"}`` becomes half of the MACs at batch 1.

    Raises:
        RecipeError: a kind is not known, or a value is neither a number nor a percentage, or not possible.
    """
    kinds = EXACT if latency is None else (*EXACT, LATENCY)
    for kind in constraints:
        if kind not in kinds:
            raise RecipeError(f"no constraint is called {kind!r}", where="constraints", hint=", ".join(kinds))
    now = shares(analysis, constraints, latency)
    found: dict[str, float] = {}
    for kind, value in constraints.items():
        number = amount(kind, value, now[kind])
        if number > now[kind]:
            why = f"the program has {_amount(now[kind])} {kind} now"
            raise RecipeError(f"the constraint {kind}: {value} cannot be met", where="constraints", why=why)
        found[kind] = number
    return found


def check(analysis: Analysis, constraints: Mapping[str, str | float]) -> None:
    """As far as can be seen before latency is measured, the program can meet its constraints.

    Raises:
        RecipeError: as ``limits`` does.
    """
    limits(analysis, {kind: v for kind, v in constraints.items() if kind != LATENCY}, lambda sizes: 0.0)
    value = constraints.get(LATENCY)
    if value is not None and amount(LATENCY, value, 1.0) > 1 and str(value).strip().endswith("%"):
        why = "it is more than the program takes now"
        raise RecipeError(f"the constraint {LATENCY}: {value} cannot be met", where="constraints", why=why)


def fitting(
    analysis: Analysis, allowed: Mapping[str, float], latency: Latency | None = None
) -> Callable[[Mapping[Axis, int]], bool]:
    """A test of sizes against all limits at once."""

    def fits(sizes: Mapping[Axis, int]) -> bool:
        return all(cost <= allowed[kind] for kind, cost in _costs(analysis, allowed, sizes, latency).items())

    return fits


def shares(analysis: Analysis, kinds: Iterable[str], latency: Latency | None = None) -> dict[str, float]:
    """What the program costs now, for each kind."""
    return _costs(analysis, kinds, {}, latency)


def only_exact(constraints: Mapping[str, str | float]) -> dict[str, str | float]:
    """Those that a result can be held against by arithmetic."""
    return {kind: value for kind, value in constraints.items() if kind in EXACT}


def told(before: Analysis, after: Analysis, constraints: Mapping[str, str | float]) -> dict[str, Any]:
    """Exact budgets, asked and reached, for a report."""
    asked = limits(before, only_exact(constraints))
    if not asked:
        return {}
    whole, reached = shares(before, asked), shares(after, asked)
    says = [
        f"{kind}: {limit / whole[kind]:.2%} asked, {reached[kind] / whole[kind]:.2%} reached"
        for kind, limit in asked.items()
    ]
    return {"says": says, "constraints": {k: {"asked": limit, "reached": reached[k]} for k, limit in asked.items()}}


def reachable(
    analysis: Analysis, sizes: Mapping[Axis, int], kinds: Iterable[str], latency: Latency | None = None
) -> str:
    """What the program would cost at some sizes, in words."""
    now, least = (_costs(analysis, list(kinds), at, latency) for at in ({}, sizes))
    return ", ".join(f"{_amount(least[kind])} {kind} ({least[kind] / whole:.1%})" for kind, whole in now.items())


def _costs(
    analysis: Analysis, kinds: Iterable[str], sizes: Mapping[Axis, int], latency: Latency | None
) -> dict[str, float]:
    exact = budget(analysis, sizes, **one_sample(analysis.program))
    found: dict[str, float] = {}
    for kind in kinds:
        if kind in EXACT:
            found[kind] = float(getattr(exact, kind))
        elif latency is not None:
            found[kind] = latency(sizes)
    return found


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
