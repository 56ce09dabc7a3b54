"""Structure: which axes became smaller, and where the multiply-accumulates of a program are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from graphc.axes.axis import Axis
from graphc.coupling.cost import one_sample, work
from graphc.coupling.flow import analyze, find_axes
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program


@dataclass(frozen=True)
class Cut:
    """An axis that became smaller.

    Attributes:
        name: of the axis, the same before and after.
        before, after: its sizes.
    """

    name: str
    before: int
    after: int

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What a module computes itself, without the modules in it.

    Attributes:
        module: its path; empty for the root.
        before, after: multiply-accumulates of one sample; 0 where it is not there.
    """

    module: str
    before: int
    after: int

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def cuts(before: Program, after: Program) -> list[Cut]:
    """The axes that have fewer units than before, in graph order; those that are gone as a whole are none."""
    left = {axis.name: axis for axis in find_axes(after)}
    pairs = [(axis, left[axis.name]) for axis in find_axes(before) if axis.name in left]
    return [Cut(old.name, old.size, new.size) for old, new in pairs if new.size < old.size and _same(old, new)]


def _same(old: Axis, new: Axis) -> bool:
    """Do they stand in one place? A name may pass on to another axis when its own is gone."""
    return not set(old.members).isdisjoint(new.members)


def works(before: Program, after: Program) -> list[Work]:
    """The multiply-accumulates of each module that has any, in graph order; their sums are those of ``cost``."""
    old, new = _works(before), _works(after)
    return [Work(path, old.get(path, 0), new.get(path, 0)) for path in dict.fromkeys([*old, *new])]


def _works(program: Program) -> dict[str, int]:
    program = make_permanent(program)
    return work(analyze(program), **one_sample(program))
