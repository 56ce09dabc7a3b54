"""What all structured pruning passes share: choose axes, score units, rank, cut.

Each pass only says which axes are its own, by the role that the rules gave them; what is coupled
to them follows from the axes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from graphc.axes.axis import Axis
from graphc.coupling import Analysis, analyze, slice
from graphc.errors import GraphError, RecipeError
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass

from .constraints import fitting, limits
from .importance import score
from .ranking import rank
from .select import choose, find

Ratio = Annotated[float | None, Field(gt=0, lt=1, description="Share of the units to remove.")]
Importance = Annotated[Literal["l1", "l2"], Field(description="How units are scored: norm of their weights.")]
Scope = Annotated[
    Literal["local", "global"],
    Field(description="Rank units within their axis, or all together."),
]
RoundTo = Annotated[int, Field(ge=1, description="What is left is a multiple of this; kernels like 8 or 16.")]
Names = Annotated[tuple[str, ...], Field(description="Module paths, axis names, or patterns written re:...")]
Limits = Annotated[
    dict[str, str | float],
    Field(description="Budgets macs, params, bytes: numbers, or percentages of what the program has."),
]
Selection = dict[str | int, list[int]]


@dataclass(frozen=True, kw_only=True)
class PruneAxes(Pass):
    """Remove units of axes: an explicit selection, a ratio, or as many as a budget asks."""

    pruning_ratio: Ratio = None
    constraints: Limits = field(default_factory=dict)
    importance: Importance = "l2"
    ranking: Scope = "local"
    round_to: RoundTo = 1
    targets: Names = ()
    ignore: Names = ()

    def __post_init__(self) -> None:
        """Check the options, and that exactly one way of choosing is given."""
        super().__post_init__()
        ways = [self.pruning_ratio is not None, bool(self.constraints), bool(self.selection())]
        if sum(ways) != 1:
            raise RecipeError(
                f"{self.type} needs exactly one of pruning_ratio, constraints and an explicit selection",
                where=f"pass {self.title}",
                hint=f"see `graphc passes {self.type}`",
            )

    @abstractmethod
    def selection(self) -> Selection:
        """The explicit selection: units to remove by axis."""

    @abstractmethod
    def owns(self, axis: Axis) -> bool:
        """Is an axis one that this pass prunes?"""

    def candidates(self, analysis: Analysis) -> list[Axis]:
        """The free axes of this pass that ``targets`` and ``ignore`` leave.

        Raises:
            GraphError: there are none; says what pins those that would be.
        """
        own = [axis for axis in analysis.axes if self.owns(axis)]
        free = [axis for axis in own if axis.pinned is None]
        if not free:
            pins = [f"{axis.name}: {axis.pinned}" for axis in own[:3]]
            raise GraphError(
                f"{self.type} finds nothing that it may cut",
                where=f"pass {self.title}",
                why="; ".join(pins) or "the program has no such axis",
                hint="`graphc explain` lists all axes and what pins them",
            )
        return choose(free, names_of, self.targets, self.ignore, self.title)

    def requires(self, program: Program) -> None:
        """Names, limits and the explicit selection must fit the program."""
        analysis = analyze(program)
        axes = self.candidates(analysis)
        self.explicit(axes)
        limits(analysis, self.constraints)

    def explicit(self, axes: list[Axis]) -> dict[Axis, list[int]]:
        """The explicit selection as kept units.

        Raises:
            RecipeError: a key or a unit does not exist.
        """
        kept: dict[Axis, list[int]] = {}
        for key, removed in self.selection().items():
            for axis in find(axes, names_of, key, f"pass {self.title}"):
                wrong = [unit for unit in removed if not 0 <= unit < axis.size]
                if wrong:
                    why = f"it has {axis.size} units, numbered from 0"
                    raise RecipeError(f"{axis.name} has no unit {wrong[0]}", where=f"pass {self.title}", why=why)
                kept[axis] = [unit for unit in range(axis.size) if unit not in removed]
        return kept

    def run(self, program: Program, context: Context) -> Program:
        """Choose units and slice."""
        analysis = analyze(program)
        axes = self.candidates(analysis)
        return slice(program, self.explicit(axes) if self.selection() else self.ranked(analysis, axes))

    def ranked(self, analysis: Analysis, axes: list[Axis]) -> Mapping[Axis, list[int]]:
        """Units kept by importance, for the ratio or the budget."""
        scores = {axis: score(analysis, axis, self.importance) for axis in axes}
        ranking = rank(scores, self.ranking, self.round_to)
        if self.pruning_ratio is not None:
            return ranking.keep(ranking.by_ratio(self.pruning_ratio))
        allowed = limits(analysis, self.constraints)
        sizes = ranking.by_budget(fitting(analysis, allowed))
        if sizes is None:
            raise GraphError(
                f"{self.type} cannot meet the constraints {dict(self.constraints)}",
                where=f"pass {self.title}",
                why="even with one step left of every axis the program costs more",
                hint="allow more, lower round_to, or prune other axes and layers first",
            )
        return ranking.keep(sizes)

    def ensures(self, before: Program, after: Program) -> None:
        """The program really became smaller, and meets its limits."""
        first, last = analyze(before), analyze(after)
        allowed = limits(first, self.constraints)
        if allowed and not fitting(last, allowed)({}):
            raise GraphError(f"{self.type} missed its constraints", where=f"pass {self.title}")
        entries = [sum(t.numel() for t in program.tensors().values()) for program in (before, after)]
        if self.selection() and entries[1] >= entries[0]:
            raise GraphError(f"{self.type} removed nothing", where=f"pass {self.title}")


def names_of(axis: Axis) -> list[str]:
    """Names by which an axis can be spoken of: its own, and those of all layers that make it."""
    return [axis.name, *axis.aliases]
