"""Amounts: budgets as numbers, or as percentages of what there is now."""

from __future__ import annotations

import re

from graphc.errors import RecipeError


def amount(kind: str, value: str | float, whole: float, where: str = "constraints") -> float:
    """A budget as a number: ``"60%"`` is that share of the whole.

    Raises:
        RecipeError: it is neither a number nor a percentage, or not above zero.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*%\s*", str(value))
    hint = "write a number, or a percentage such as 50%"
    try:
        number = float(match.group(1)) / 100 * whole if match else float(value)
    except ValueError as error:
        raise RecipeError(f"{kind}: {value!r} is no amount", where=where, hint=hint) from error
    if not number > 0:
        raise RecipeError(f"{kind}: {value!r} is no budget", where=where, hint=hint)
    return number
