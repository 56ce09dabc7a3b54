"""How much worse a metric may get."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graphc.errors import RecipeError

MaxDrop = Annotated[
    str | float | None,
    Field(description="The metric may be worse than the original's by no more than this: 0.01, or a share of it: 1%."),
]


def allowed_drop(max_drop: str | float | None, baseline: float, where: str) -> float | None:
    """How much worse than this the metric may be; None for any.

    Raises:
        RecipeError: ``max_drop`` is neither a number nor a percentage.
    """
    if max_drop is None:
        return None
    text = str(max_drop)
    try:
        value = float(text.removesuffix("%"))
    except ValueError as error:
        raise RecipeError(
            f"max_drop cannot be {text!r}", where=where, hint="write 0.01, or 1% of the original's"
        ) from error
    return value / 100 * abs(baseline) if text.endswith("%") else value
