"""The contract of an emitter: write, reload in its own runtime, prove equal, and only then appear."""

from __future__ import annotations

import abc
import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from graphc.emitters.equality import Equality, Runner, Tolerance, compare
from graphc.emitters.staging import check_writable, size_of, staged
from graphc.errors import EmitError, nearest
from graphc.ir.edit import set_training
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program

__all__ = ["Artifact", "Emitter", "check_writable", "emit", "find_emitter", "load", "register_emitter"]

GROUP = "graphc.emitters"
FOLDER = "/"


@dataclass(frozen=True)
class Artifact:
    """A file or folder that was written, and seen to be equal to its program.

    Attributes:
        path: where it is.
        bytes: size on disk, with files beside it that belong to it.
        kind: the emitter's suffix: ``.onnx``, ``.pt2``, ``/``.
        error: largest relative error against the program (norm of the difference / norm).
        sizes: the sizes of the dynamic dims at which it was run.
        facts: what else its emitter has to say of it; JSON-able.
    """

    path: Path
    bytes: int
    kind: str
    error: float
    sizes: tuple[Mapping[str, int], ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Emitter(abc.ABC):
    """Writes programs in one format. Its fields are its options, as keywords of ``emit``.

    To add a format, subclass this as a frozen dataclass, say which ``suffix`` it handles, and
    define ``write`` and ``open`` (and ``load`` if a program can be read back); then register it.

    Attributes:
        tolerance: largest relative error that counts as equal.
    """

    suffix: ClassVar[str]
    lazy: ClassVar[bool] = False
    """Does it write weights that stay in their files block by block, and prove them one at a time?"""
    tolerance: float = 1e-4

    @abc.abstractmethod
    def write(self, program: Program, path: Path) -> None:
        """Write the artifact at ``path``; files beside it may only have names that begin with its name.

        The path is in a folder made for this, and everything in it is moved to its place later.

        Raises:
            EmitError: the format cannot express the program.
        """

    @abc.abstractmethod
    def open(self, program: Program, path: Path) -> Runner:
        """Reload the artifact in its own runtime.

        Returns a function of (args, kwargs) that gives the outputs as torch tensors in contract
        order, in any pytree.
        """

    def check(self, program: Program, path: Path) -> Equality:
        """Run the artifact at the example size and with all dynamic dims changed, and compare.

        Raises:
            EmitError: it does not load or run, or is not equal to the program.
        """
        try:
            run = self.open(program, path)
        except EmitError:
            raise
        except Exception as error:  # every failure of a foreign runtime becomes one EmitError
            raise EmitError(
                "the artifact does not load in its own runtime",
                where=path.name,
                why=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
                hint="its runtime lacks an op or a dtype of the program: change that, or emit another format",
            ) from error
        return compare(program, run, self.allowed(program), path.name)

    def allowed(self, program: Program) -> float | Tolerance:
        """How far the artifact's outputs may be from the program's."""
        return self.tolerance

    def facts(self, path: Path) -> Mapping[str, Any]:
        """What there is to say of an artifact that was written, beside its size and error; JSON-able."""
        return {}

    def load(self, path: Path) -> Program:
        """Read a program back.

        Raises:
            EmitError: the format is write-only.
        """
        raise EmitError(
            f"a {self.suffix} artifact cannot be loaded",
            where=str(path),
            why="the format is write-only: it does not keep what a program needs",
            hint="emit a .pt2 file or a folder beside it, and load that",
        )


_registered: dict[str, type[Emitter]] = {}


def register_emitter(suffix: str, emitter: type[Emitter]) -> None:
    """Make ``emit`` and ``load`` use an emitter for a suffix (``.tflite``; ``/`` for folders).

    A package can do the same for all its users with an entry point in the group ``graphc.emitters``
    whose name is the suffix. What is registered here comes first.

    Raises:
        EmitError: the suffix or the emitter is not one.
    """
    if suffix != FOLDER and (not suffix.startswith(".") or len(suffix) < 2):
        raise EmitError(f"{suffix!r} is no suffix", hint="give one like '.onnx', or '/' for folders")
    if not (isinstance(emitter, type) and issubclass(emitter, Emitter)):
        raise EmitError(f"{emitter!r} is no emitter", where=suffix, hint="give a subclass of graphc.emitters.Emitter")
    _registered[suffix] = emitter


def find_emitter(path: str | Path) -> type[Emitter]:
    """The emitter for a path, by its suffix; a path without one, or with ``/`` at its end, is a folder.

    Raises:
        EmitError: no emitter handles the suffix; names the nearest ones.
    """
    suffix = FOLDER if str(path).endswith("/") or os.path.isdir(path) else Path(path).suffix or FOLDER
    if suffix in _registered:
        return _registered[suffix]
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if suffix not in points:
        what = f"no emitter writes {suffix!r}"
        hint = f"{nearest(suffix, {*points, *_registered})}; a folder's path ends with /"
        raise EmitError(what, where=str(path), hint=hint)
    try:
        register_emitter(suffix, points[suffix].load())
    except (ImportError, AttributeError) as error:
        raise EmitError(
            f"the emitter for {suffix!r} does not load", where=points[suffix].value, why=str(error)
        ) from error
    return _registered[suffix]


def make_emitter(path: str | Path, options: Mapping[str, Any]) -> Emitter:
    """The emitter for a path with its options set.

    Raises:
        EmitError: an option is not known, or its value is wrong.
    """
    kind = find_emitter(path)
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            raise EmitError(f"{kind.__name__} has no option {name!r}", where=str(path), hint=nearest(name, known))
    return kind(**options)


def emit(program: Program, path: str | Path, **options: Any) -> Artifact:
    """Write a program, and prove that what was written is equal to it.

    The artifact appears under its name only after it was reloaded in its own runtime and run at
    the example size and with every dynamic dim changed. If anything fails, what was there before
    is still there. A program in training mode is written in evaluation mode, and masks of weights
    become zeros in them.

    Args:
        path: ``model.onnx``, ``model.pt2``, a folder (no suffix, or ``/`` at the end), or whatever
            a registered emitter handles.
        options: fields of the emitter, such as ``opset_version`` or ``tolerance``.

    Raises:
        EmitError: unknown suffix or option, unwritable place (both before any work), a program that
            the format cannot express, or an artifact that is not equal.
    """
    emitter = make_emitter(path, options)
    path = Path(path) if Path(path).name else Path(path).resolve()
    if program.module.training:
        program = set_training(program, False)
    program = make_permanent(program)
    with staged(path) as inside:
        emitter.write(program, inside)
        equality = emitter.check(program, inside)
        size = sum(size_of(entry) for entry in inside.parent.iterdir())
        facts = emitter.facts(inside)
    return Artifact(path, size, emitter.suffix, equality.error, equality.sizes, facts)


def load(path: str | Path) -> Program:
    """Read a program back from a ``.pt2`` file or a folder that ``emit`` wrote.

    Raises:
        EmitError: there is nothing, it is write-only (``.onnx``), or it is not what ``emit`` writes.
    """
    emitter = make_emitter(path, {})
    path = Path(path)
    if not path.exists():
        raise EmitError("there is nothing to load", where=str(path), hint="give a .pt2 file or a folder")
    return emitter.load(path)
