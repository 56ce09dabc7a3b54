"""Named: what a recipe names that is run, and how large it may be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from graphc.errors import RecipeError

TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""``package.module:callable``."""
MOST = 100_000
"""Values in a recipe, those counted as often as they are referred to."""
DEEPEST = 50


def targets(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The code that a recipe runs: for each target the key it stands at, wherever that is."""
    found: list[tuple[str, str]] = []
    for key, value in _leaves(recipe, ""):
        if isinstance(value, str) and TARGET.fullmatch(value):
            found.append((key, value))
        elif key.endswith("trust_remote_code") and value:
            found.append((key, "code that comes with the model"))
    return found


def check_size(values: Mapping[str, Any], where: str) -> None:
    """See that YAML is of a size that a person writes: anchors can make it endless, or of billions of values.

    Raises:
        RecipeError: it is not.
    """
    try:
        count = 0
        for count, _ in enumerate(_leaves(values, "")):
            if count > MOST:
                break
    except RecursionError as error:
        hint = "anchors (&) and aliases (*) must not go round in a circle"
        raise RecipeError("the recipe is nested too deeply", where=where, hint=hint) from error
    if count > MOST:
        raise RecipeError(
            "the recipe is too large", where=where, why=f"its aliases make more than {MOST:,} values of it"
        )


def _leaves(value: Any, key: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every value that is no container, and every empty or shared container once for each use, with its key."""
    if depth > DEEPEST:
        raise RecursionError(key)
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = ((f"{key}.{name}" if key else str(name), part) for name, part in value.items())
    elif isinstance(value, (list, tuple)):
        parts = ((f"{key}[{i}]", part) for i, part in enumerate(value))
    yield key, value if not parts else None
    for name, part in parts:
        yield from _leaves(part, name, depth + 1)
