"""Selection by name: which axes or layers ``targets``, ``ignore`` and explicit keys speak of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from graphc.errors import RecipeError, nearest

T = TypeVar("T")
Names = Callable[[T], Iterable[str]]


def matches(pattern: str, names: Iterable[str]) -> bool:
    """Does a name, or a pattern written ``re:...``, speak of one of these dotted names?

    A plain name matches itself and everything below it: ``encoder.layer.0``. A pattern must match
    from the start of a name.

    Raises:
        RecipeError: it is no valid pattern.
    """
    if pattern.startswith("re:"):
        try:
            compiled = re.compile(pattern[3:])
        except (re.error, OverflowError, RecursionError) as error:
            raise RecipeError(f"{pattern!r} is not a valid pattern", why=str(error)) from error
        return any(compiled.match(name) for name in names)
    return any(name == pattern or name.startswith(pattern + ".") for name in names)


def choose(items: Sequence[T], names: Names[T], targets: Sequence[str], ignore: Sequence[str], what: str) -> list[T]:
    """The items that ``targets`` speak of (all, if there are none) without those that ``ignore`` speaks of.

    Raises:
        RecipeError: a name or pattern matches nothing, or is no valid pattern.
    """
    for option, patterns in (("targets", targets), ("ignore", ignore)):
        for pattern in patterns:
            find(items, names, pattern, f"{option} of {what}")
    chosen = [item for item in items if not targets or any(matches(p, names(item)) for p in targets)]
    return [item for item in chosen if not any(matches(p, names(item)) for p in ignore)]


def find(items: Sequence[T], names: Names[T], key: str | int, where: str) -> list[T]:
    """The items that one key speaks of: a number counts them, a string names them.

    Raises:
        RecipeError: there is no such item; names the nearest.
    """
    if isinstance(key, int):
        if not 0 <= key < len(items):
            why = f"there are {len(items)}, numbered from 0"
            raise RecipeError(f"number {key} does not exist", where=where, why=why)
        return [items[key]]
    try:
        found = [item for item in items if matches(key, names(item))]
    except RecipeError as error:
        raise RecipeError(error.what, where=where, why=error.why) from error
    if not found:
        hint = nearest(key, {name for item in items for name in names(item)})
        raise RecipeError(f"{key!r} matches nothing", where=where, hint=hint)
    return found
