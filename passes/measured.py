"""Measured importance: what ``graphc sensitivity`` found, for passes that choose."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from graphc.errors import RecipeError, nearest

FLOOR = 0.01
"""What nothing was lost by still counts as this share of the greatest loss."""


def losses(file: str, items: Iterable[str]) -> dict[str, float]:
    """The greatest loss of the metric that a sensitivity.json has for each item, at least ``FLOOR`` of them all.

    Raises:
        RecipeError: the file is not there or is no such file, or an item is not in it.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        found: dict[str, float] = {}
        sign = 1 if content.get("greater_is_better", True) else -1
        for probe in content["probes"]:
            loss = sign * (float(content["baseline"]) - float(probe["metric"]))
            found[probe["item"]] = max(loss, found.get(probe["item"], 0.0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "make it with `graphc sensitivity RECIPE`"
        raise RecipeError(f"{file!r} is no sensitivity.json", where="sensitivity", why=str(error), hint=hint) from error
    least = FLOOR * max(found.values(), default=0.0) or 1.0
    for item in items:
        if item not in found:
            raise RecipeError(f"{file} says nothing of {item!r}", where="sensitivity", hint=nearest(item, found))
    return {item: max(found[item], least) for item in items}
