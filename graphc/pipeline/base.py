"""Pass: the contract that every transformation keeps, and the context it runs in.

A pass is a frozen dataclass. Its fields are its options in Python, in YAML, in
``graphc passes NAME`` and in the JSON schema; each is checked when the pass is made.
"""

from __future__ import annotations

import abc
import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from graphc.errors import RecipeError, nearest
from graphc.ir.program import Program

GROUP = "graphc.passes"

Data = Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the program.

    Attributes:
        original: the program as captured: teacher and reference.
        data: loaders by name (``train``, ``calibration``, ``eval``).
        device: where training and calibration run.
        seed: for everything random.
        run_dir: where a pass may write; None when nothing is to be written.
        progress: called with (done, total, text) during long work.
    """

    original: Program
    data: Mapping[str, Data] = field(default_factory=dict)
    device: str = "cpu"
    seed: int = 0
    run_dir: Path | None = None
    progress: Callable[[int, int, str], None] = lambda done, total, text: None

    def loader(self, name: str) -> Iterable[Any]:
        """The batches of one of the data sets.

        Raises:
            RecipeError: the recipe has no data of this name.
        """
        if name not in self.data:
            raise missing_data("this pass", name, self.data)
        return self.data[name]()


def missing_data(who: str, name: str, known: Iterable[str], why: str = "") -> RecipeError:
    """That somebody needs data which there is not, and how to give it."""
    hint = f"add `data: {{{name}: {{target: 'package.module:callable'}}}}`; {nearest(name, known)}"
    return RecipeError(f"{who} needs data called {name!r}", where="data", why=why, hint=hint)


@dataclass(frozen=True, kw_only=True)
class Pass(abc.ABC):
    """One transformation of a Program.

    Subclasses are frozen dataclasses with ``type`` set; they implement ``run``, and may check the
    program before (``requires``) and the result after (``ensures``).
    """

    type: ClassVar[str] = ""
    whole: ClassVar[bool] = False
    """Is what the pass compresses there or not, as layers are, so that it has no ratio?"""
    name: str | None = None

    def __post_init__(self) -> None:
        """Check every option against its annotation.

        Raises:
            RecipeError: names the option, the value and what is allowed.
        """
        for option, adapter in options(type(self)).items():
            try:
                value = adapter.validate_python(getattr(self, option))
            except pydantic.ValidationError as error:
                detail = error.errors()[0]
                raise RecipeError(
                    f"the option {option!r} of {self.type} cannot be {getattr(self, option)!r}",
                    where=f"pass {self.name or self.type}",
                    why=detail["msg"],
                    hint=f"see `graphc passes {self.type}`",
                ) from error
            object.__setattr__(self, option, value)

    @property
    def title(self) -> str:
        """The name in reports: the pass's own, or its type."""
        return self.name or self.type

    def needs_data(self) -> Mapping[str, str]:
        """The data that the pass reads by name, each with what it is for; checked before anything runs."""
        return {}

    def requires(self, program: Program) -> None:  # noqa: B027 - most passes need nothing
        """Raise a GraphError if the program is not one that this pass can work on."""

    @abc.abstractmethod
    def run(self, program: Program, context: Context) -> Program:
        """The transformed program; the given one stays as it is."""

    def ensures(self, before: Program, after: Program) -> None:  # noqa: B027 - as above
        """Raise a GraphError if what the pass promised did not happen."""

    def probes(self, program: Program, context: Context) -> Mapping[str, Callable[[float], Program]]:
        """What the pass would compress, one by one: for each item the program with a share of it gone."""
        return {}

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """What the pass has to say of its result for the report, JSON-able; lines under ``says`` are shown."""
        return {}

    def note(self) -> str:
        """The pass as one line of history: its type and the options that are not at their default."""
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.name != "name" and getattr(self, f.name) != _default(f)
        ]
        text = f"{self.type}({', '.join(shown)})"
        return f"{self.name}: {text}" if self.name else text


def _default(option: dataclasses.Field[Any]) -> Any:
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return option.default


@cache
def options(kind: type[Pass]) -> dict[str, pydantic.TypeAdapter[Any]]:
    """The options of a pass and what each accepts."""
    hints = typing.get_type_hints(kind, include_extras=True)
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    adapters: dict[str, pydantic.TypeAdapter[Any]] = {}
    for option in dataclasses.fields(kind):
        annotation = hints[option.name]
        simple = not (isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel))
        adapters[option.name] = pydantic.TypeAdapter(annotation, config=config if simple else None)
    return adapters


def known_passes() -> dict[str, type[Pass]]:
    """All installed passes by type, from the entry-point group ``graphc.passes``.

    Raises:
        RecipeError: an entry point does not load, or is not a pass of that type.
    """
    found: dict[str, type[Pass]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        found[point.name] = _load(point)
    return found


def find_pass(kind: str) -> type[Pass]:
    """The pass of this type.

    Raises:
        RecipeError: no such pass is installed; names the nearest ones.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in points:
        raise RecipeError(f"no pass is called {kind!r}", where="passes", hint=nearest(kind, points))
    return _load(points[kind])


def _load(point: Any) -> type[Pass]:
    try:
        kind = point.load()
    except (ImportError, AttributeError) as error:
        hint = "the package that provides it is broken or not installed; reinstall it"
        raise RecipeError(
            f"the pass {point.name!r} cannot be loaded", where=point.value, why=str(error), hint=hint
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Pass) and kind.type == point.name):
        why = f"{point.value} is not a subclass of graphc.Pass with type = {point.name!r}"
        raise RecipeError(f"the pass {point.name!r} cannot be used", where=point.value, why=why)
    return kind


def make_pass(spec: Mapping[str, Any], where: str) -> Pass:
    """A pass from its YAML form ``{type: prune-heads, pruning_ratio: 0.5}``.

    Raises:
        RecipeError: the type or an option is not known, or a value is wrong.
    """
    values = dict(spec)
    kind_name = values.pop("type", None)
    if not isinstance(kind_name, str):
        raise RecipeError("a pass has no type", where=where, hint="write {type: prune-heads, ...}")
    try:
        kind = find_pass(kind_name)
    except RecipeError as error:
        raise RecipeError(error.what, where=where, why=error.why, hint=error.hint) from error
    known = options(kind)
    for option in values:
        if option not in known:
            hint = nearest(str(option), known)
            raise RecipeError(f"{kind_name} has no option {option!r}", where=where, hint=hint)
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{kind_name} needs the option {missing[0]!r}", where=where)
    try:
        return kind(**values)
    except RecipeError as error:
        raise RecipeError(error.what, where=where, why=error.why, hint=error.hint) from error
