"""Checked: dataclasses whose fields are options, checked against their annotations when they are made."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

import pydantic

from graphc.errors import RecipeError, nearest
from graphc.pipeline.targets import find_target

T = TypeVar("T", bound="Checked")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Something that a recipe describes by its ``type`` and options.

    Its fields are its options in Python, in YAML and in the JSON schema.
    """

    type: ClassVar[str] = ""
    kind: ClassVar[str] = "option"
    """What it is, for errors: a pass, a loss, a hook."""

    def __post_init__(self) -> None:
        """Check every option against its annotation.

        Raises:
            RecipeError: names the option, the value and what is allowed.
        """
        for option, adapter in options(type(self)).items():
            try:
                value = adapter.validate_python(getattr(self, option))
            except pydantic.ValidationError as error:
                raise RecipeError(
                    f"the option {option!r} of {self.type} cannot be {getattr(self, option)!r}",
                    where=f"{self.kind} {self.title}",
                    why=error.errors()[0]["msg"],
                    hint=self.help(),
                ) from error
            object.__setattr__(self, option, value)

    @property
    def title(self) -> str:
        """The name in errors and reports."""
        return self.type

    def help(self) -> str:
        """Where a user finds what the options are."""
        return f"its options are {', '.join(options(type(self)))}"

    def note(self) -> str:
        """Its type and the options that are not at their default, as one line."""
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.name != "name" and getattr(self, f.name) != default(f)
        ]
        return f"{self.type}({', '.join(shown)})"


def default(option: dataclasses.Field[Any]) -> Any:
    """The default of a field; ``dataclasses.MISSING`` if it has none."""
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return option.default


def options(kind: type[Checked]) -> Mapping[str, pydantic.TypeAdapter[Any]]:
    """The options of a class and what each accepts."""
    found: Any = kind
    return _adapters(found)


@cache
def _adapters(kind: Any) -> dict[str, pydantic.TypeAdapter[Any]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
    adapters: dict[str, pydantic.TypeAdapter[Any]] = {}
    for option in dataclasses.fields(kind):
        annotation = hints[option.name]
        simple = not (isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel))
        adapters[option.name] = pydantic.TypeAdapter(annotation, config=config if simple else None)
    return adapters


def find_class(name: str, known: Mapping[str, type[T]], base: type[T], where: str) -> type[T]:
    """The class of a type, or the subclass of ``base`` at ``package.module:Class``.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if ":" in name:
        found = find_target(name, where)
        if isinstance(found, type) and issubclass(found, base):
            return found
        hint = f"it must be a subclass of graphc.passes.{base.__name__}"
        raise RecipeError(f"{name!r} is no {base.kind}", where=where, hint=hint)
    if name not in known:
        hint = f"{nearest(name, known)}; or write package.module:Class"
        raise RecipeError(f"no {base.kind} is called {name!r}", where=where, hint=hint)
    return known[name]


def make(spec: Mapping[str, Any], find: Callable[[str], type[T]], where: str, what: str, example: str) -> T:
    """An object from its YAML form ``{type: ..., option: value}``.

    Args:
        spec: the type and the options.
        find: gives the class of a type.
        where: for errors: the place in the recipe.
        what, example: for errors: what it is, and how it is written.

    Raises:
        RecipeError: the type or an option is not known, or a value is wrong.
    """
    values = dict(spec)
    name = values.pop("type", None)
    if not isinstance(name, str):
        raise RecipeError(f"a {what} has no type", where=where, hint=f"write {example}")
    try:
        kind = find(name)
    except RecipeError as error:
        raise RecipeError(error.what, where=where, why=error.why, hint=error.hint) from error
    known = options(kind)
    for option in values:
        if option not in known:
            raise RecipeError(f"{name} has no option {option!r}", where=where, hint=nearest(str(option), known))
    for field in dataclasses.fields(kind):
        if field.name not in values and default(field) is dataclasses.MISSING:
            raise RecipeError(f"{name} needs the option {field.name!r}", where=where)
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(error.what, where=where, why=error.why, hint=error.hint) from error
