"""The space of a search: what may be chosen in the passes of a recipe, and the passes of a choice."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from graphc.errors import RecipeError, nearest
from graphc.pipeline.search_section import Range

Spec = dict[str, Any]
Params = Mapping[str, Any]
"""A choice of everything: by name the text of a value of a list, or a number of a range."""
Offers = Callable[[str], Mapping[str, Any]]
"""What the pass of a title offers by itself."""
Path = tuple[str | int, ...]
ALL, EACH = "all", "each"
"""What a pass offers by name: with values of its own, or with given ones."""
WHERE = "search.choices"


@dataclass(frozen=True)
class Choice:
    """One thing that may be chosen.

    Attributes:
        path: the title of a pass, then its option, and so on inwards; the title alone is the pass as a whole.
        values: of a list, by their text.
        range: if it is none.
    """

    path: Path
    values: Mapping[str, Any]
    range: Range | None = None

    @property
    def name(self) -> str:
        """``prune-filters.pruning_ratio``."""
        return ".".join(map(str, self.path))

    @property
    def where(self) -> str:
        """For errors."""
        return f"{WHERE}.{self.name}"

    @property
    def params(self) -> tuple[Any, ...]:
        """All of a list, the ends of a range."""
        return (self.range.low, self.range.high) if self.range is not None else tuple(self.values)

    @property
    def count(self) -> float:
        """How many values there are; infinite for a range of real numbers without a step."""
        if self.range is None:
            return len(self.values)
        step = self.range.step or (1 if is_integer(self.range) else 0)
        return math.floor((self.range.high - self.range.low) / step + 1e-9) + 1 if step else math.inf

    def value(self, param: Any) -> Any:
        """What goes into the recipe."""
        if self.range is None:
            return copy.deepcopy(self.values[param])
        return param if isinstance(param, int) else float(f"{param:.10g}")


@dataclass(frozen=True)
class SearchSpace:
    """What may be chosen in the passes of a recipe.

    Attributes:
        specs: the passes as the recipe has them.
        choices: all of them, outer ones before those within.
    """

    specs: tuple[Spec, ...]
    choices: tuple[Choice, ...]

    @property
    def count(self) -> float:
        """How many candidates there are, equal ones included."""
        return math.prod(choice.count for choice in self.choices)

    @property
    def corners(self) -> tuple[Params, Params]:
        """The first of everything and the last of everything."""
        first, last = ({c.name: c.params[place] for c in self.choices} for place in (0, -1))
        return first, last

    def variants(self) -> Iterator[tuple[Choice, Params]]:
        """Each value of each choice once, with the first of all others."""
        first, _ = self.corners
        for choice in self.choices:
            yield from ((choice, {**first, choice.name: param}) for param in choice.params)

    def passes(self, params: Params) -> list[Spec]:
        """The passes of a choice."""
        made: dict[str, Spec | None] = {title(spec): copy.deepcopy(spec) for spec in self.specs}
        for choice in self.choices:
            name, *inner = choice.path
            spec, value = made[str(name)], choice.value(params[choice.name])
            if spec is None:
                continue
            if not inner:
                made[str(name)] = None if value is None else {**spec, **value}
            else:
                put(spec, inner, value, choice.where)
        return [spec for spec in made.values() if spec is not None]

    def key(self, params: Params) -> str:
        """Equal for equal candidates."""
        return json.dumps(self.passes(params), sort_keys=True)


def title(spec: Spec) -> str:
    """The name of a pass in reports."""
    return str(spec.get("name") or spec.get("type"))


def shared(specs: Sequence[Spec], tree: Mapping[str, Any]) -> int:
    """How many passes there are before the first in which something may be chosen."""
    titles = [title(spec) for spec in specs]
    return min((titles.index(name) for name in tree), default=len(titles))


def read_space(specs: Sequence[Spec], tree: Mapping[str, Any], offers: Offers | None = None) -> SearchSpace:
    """The choices as the recipe writes them.

    Args:
        specs: passes.
        tree: choices by pass and option.
        offers: gives what stands for ``all``; None leaves that out.

    Raises:
        RecipeError: something is no choice, there is no such pass, two have one name, or a pass offers nothing.
    """
    titles = [title(spec) for spec in specs]
    for name in tree:
        if name not in titles:
            raise RecipeError(f"no pass of the recipe is called {name!r}", where=WHERE, hint=nearest(name, titles))
    choices = [choice for name, value in tree.items() for choice in _read((name,), value, offers)]
    seen: set[str] = set()
    for choice in choices:
        if choice.name in seen:
            raise RecipeError(f"there are two choices called {choice.name!r}", where=WHERE)
        seen.add(choice.name)
    return SearchSpace(tuple(specs), tuple(choices))


def _read(path: Path, value: Any, offers: Offers | None) -> Iterator[Choice]:
    where = f"{WHERE}.{'.'.join(map(str, path))}"
    if value == ALL or (isinstance(value, Mapping) and set(value) == {EACH}):
        each = None if value == ALL else value[EACH]
        if offers is not None:
            yield from _expanded(path, each, _offered(path, offers, where), where)
        elif each is not None:
            list(_read(path, each, None))
    elif isinstance(value, (list, tuple)):
        yield _listed(path, value, where)
    elif isinstance(value, Mapping) and {"low", "high"} & set(value):
        yield Choice(path, {}, _range(value, where))
    elif isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _read((*path, key), inner, offers)
    else:
        hint = "write a list of values, {low: 0.2, high: 0.8}, all, {each: [...]}, or choices by option"
        raise RecipeError(f"{value!r} is no choice", where=where, hint=hint)


def _offered(path: Path, offers: Offers, where: str) -> Mapping[str, Any]:
    found: Any = offers(str(path[0]))
    for key in path[1:]:
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    if not found:
        hint = f"write a list of values or {{low: ..., high: ...}}; see `graphc passes {path[0]}`"
        raise RecipeError("the pass offers no choices here", where=where, hint=hint)
    return found  # type: ignore[no-any-return]


def _expanded(path: Path, each: Any, offered: Mapping[str, Any], where: str) -> Iterator[Choice]:
    """One choice for each name: of what the pass offers, or of those of the given values that it offers."""
    found: list[Choice] = []
    for name, legal in offered.items():
        inner = (*path, name)
        if isinstance(legal, Mapping) and not {"low", "high"} & set(legal):
            found += _expanded(inner, each, legal, where)
        elif isinstance(each, (list, tuple)) and isinstance(legal, (list, tuple)):
            values = [value for value in each if value in legal or isinstance(value, float)]  # a share of anything
            found += [_listed(inner, values, where)] if values and values != list(legal[:1]) else []
        elif each is not None or legal is not None:
            found += _read(inner, legal if each is None else each, None)
    if not found:
        name, legal = next(iter(offered.items()))
        why = f"it can be {', '.join(map(str, legal))} for {name}" if legal else "the pass does not say which"
        raise RecipeError("nothing can have these values", where=where, why=why, hint="write {each: [...]}")
    yield from found


def _listed(path: Path, values: Sequence[Any], where: str) -> Choice:
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    if not texts:
        raise RecipeError("there is nothing to choose from", where=where)
    if len(set(texts)) < len(texts):
        raise RecipeError("a value is there twice", where=where, why=", ".join(texts))
    if len(path) == 1:
        wrong = next((value for value in values if value is not None and not isinstance(value, Mapping)), None)
        if wrong is not None:
            hint = "write options as {pruning_ratio: 0.5}, or null to leave the pass out"
            raise RecipeError(f"{wrong!r} stands for no pass", where=where, hint=hint)
    return Choice(path, dict(zip(texts, values, strict=True)))


def _range(value: Mapping[str, Any], where: str) -> Range:
    try:
        found = Range.model_validate(value)
    except pydantic.ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"][:1])
        raise RecipeError(f"{dict(value)} is no range", where=where, why=f"{key}: {detail['msg']}") from error
    if found.low >= found.high:
        raise RecipeError("low must be below high", where=where, why=f"they are {found.low} and {found.high}")
    if found.log and (found.low <= 0 or found.step is not None):
        raise RecipeError("a logarithmic range starts above 0 and has no step", where=where)
    if found.step is None:
        return found
    steps = math.floor((found.high - found.low) / found.step + 1e-9)
    return found.model_copy(update={"high": found.low + steps * found.step})


def is_integer(found: Range) -> bool:
    """Is a range one of integers?"""
    return all(isinstance(x, int) for x in (found.low, found.high, found.step if found.step is not None else 1))


def put(spec: Any, path: Sequence[str | int], value: Any, where: str) -> None:
    """Set what is at a path inside options; dicts on the way are made, also of what was one value for all.

    Raises:
        RecipeError: there is no such place.
    """
    for key, inner in zip(path, [*path[1:], None], strict=True):
        if isinstance(spec, list):
            if not isinstance(key, int) or not 0 <= key < len(spec):
                why = f"there are {len(spec)}, numbered from 0"
                raise RecipeError(f"the list has no item {key!r}", where=where, why=why)
        elif inner is not None and not isinstance(spec.get(key), (dict, list)):
            spec[key] = {}
        if inner is None:
            spec[key] = value
        else:
            spec = spec[key]
