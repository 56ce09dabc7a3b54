"""What all structured pruning passes share: choose axes, score units, rank, cut, in one step or several.

Each pass only says which axes are its own, by the role that the rules gave them; what is coupled
to them follows from the axes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from graphc.axes.axis import Axis
from graphc.coupling import Analysis, analyze, slice
from graphc.errors import GraphError, RecipeError
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass, make_pass
from graphc.pipeline.perform import apply

from .constraints import LATENCY, check, fitting, limits, only_exact, reachable, shares, told
from .importance import criterion_in_memory
from .isomorphism import grouped
from .latency import Clock, Meant, clock
from .measured import losses
from .named import names_of, ratios_of
from .options import (
    SCHEDULES,
    Between,
    LatencyDims,
    LatencyThreads,
    Limits,
    Measured,
    MinSize,
    MostRatio,
    Names,
    Ratio,
    Ratios,
    RoundTo,
    Schedule,
    Scope,
    Selection,
    Steps,
    TablePath,
)
from .ranking import Allowed, Ranking, rank
from .scored import Scored
from .select import choose, find


@dataclass(frozen=True, kw_only=True)
class PruneAxes(Scored):
    """Remove units of axes: an explicit selection, a ratio, or as many as a budget asks."""

    pruning_ratio: Ratio = None
    pruning_ratios: Ratios = field(default_factory=dict)
    max_pruning_ratio: MostRatio = 1.0
    min_size: MinSize = 1
    constraints: Limits = field(default_factory=dict)
    latency_table: TablePath = None
    latency_threads: LatencyThreads = 1
    latency_dims: LatencyDims = field(default_factory=dict)
    sensitivity: Measured = None
    ranking: Scope = "local"
    round_to: RoundTo = 1
    iterative_steps: Steps = 1
    schedule: Schedule = "linear"
    between: Between = ()
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
        if self.selection() and (self.iterative_steps > 1 or self.pruning_ratios):
            hint = "leave out iterative_steps and pruning_ratios"
            raise RecipeError("an explicit selection is one step", where=f"pass {self.title}", hint=hint)
        if self.constraints and self.pruning_ratios:
            hint = "give a ratio for all with ratios of their own for some, or a budget"
            raise RecipeError("constraints leave no ratio open", where=f"pass {self.title}", hint=hint)
        self.stages()

    @abstractmethod
    def selection(self) -> Selection:
        """The explicit selection: units to remove by axis."""

    @abstractmethod
    def owns(self, axis: Axis) -> bool:
        """Is an axis one that this pass prunes?"""

    def by_importance(self) -> bool:
        """An explicit selection needs none."""
        return not self.selection()

    def stages(self) -> list[Pass]:
        """The passes that run after each step."""
        return [make_pass(spec, f"pass {self.title}, between[{i}]") for i, spec in enumerate(self.between)]

    def needs_data(self) -> Mapping[str, str]:
        """That of the criterion, and that of the stages in between."""
        found = dict(super().needs_data())
        for stage in self.stages():
            found.update(stage.needs_data())
        return found

    def needs_memory(self) -> str:
        """Norms of weights are taken tensor by tensor; what looks at data or latency runs the program."""
        if LATENCY in self.constraints:
            return f"constraints: {LATENCY} is measured by running the program many times"
        own = criterion_in_memory(self.importance) if self.by_importance() else ""
        return own or next(filter(None, (stage.needs_memory() for stage in self.stages())), "")

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
        chosen = choose(free, names_of, self.targets, self.ignore, self.title)
        if not chosen:
            hint = "`graphc explain` lists all axes"
            raise GraphError(f"{self.type}: ignore leaves nothing to cut", where=f"pass {self.title}", hint=hint)
        return chosen

    def offers(self, program: Program) -> Mapping[str, Any]:
        """Axes can have ratios of their own."""
        return {"pruning_ratios": ratios_of(self.candidates(analyze(program)))}

    def requires(self, program: Program) -> None:
        """Names, limits, ratios and the explicit selection must fit the program."""
        analysis = analyze(program)
        axes = self.candidates(analysis)
        self.explicit(axes)
        check(analysis, self.constraints)
        if self.sensitivity is not None:
            losses(self.sensitivity, [axis.name for axis in axes])
        ratios = self.ratios(axes)
        emptied = [a for a in axes if self.ranking == "local" and 0 < a.size <= round(a.size * ratios[a])]
        if emptied and self.max_pruning_ratio == 1.0 and self.min_size == 1 and self.round_to == 1:
            raise RecipeError(
                f"{self.type} would leave nothing of {emptied[0].name}",
                where=f"pass {self.title}",
                why=f"it has {emptied[0].size} units, and the ratio is {ratios[emptied[0]]}",
                hint="lower the ratio, give max_pruning_ratio or min_size, or ignore the axis",
            )

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

    def ratios(self, axes: Sequence[Axis]) -> dict[Axis, float]:
        """The ratio of each axis: its own, or the common one."""
        own: dict[Axis, float] = {}
        for pattern, ratio in self.pruning_ratios.items():
            own.update(dict.fromkeys(find(list(axes), names_of, pattern, f"pruning_ratios of {self.title}"), ratio))
        return {axis: own.get(axis, self.pruning_ratio or 0.0) for axis in axes}

    def run(self, program: Program, context: Context) -> Program:
        """Choose units and slice, as often as there are steps, with the stages in between."""
        analysis = analyze(program)
        axes = self.candidates(analysis)
        if self.selection():
            return slice(program, self.explicit(axes))
        full = {axis.name: axis.size for axis in axes}
        if LATENCY not in self.constraints:
            return self.stepwise(program, context, full, None)
        meant = Meant(self.latency_table, self.latency_threads, self.latency_dims)
        with clock(program, full, context, self.title, meant) as watch:
            found = self.stepwise(program, context, full, watch)
        says = [*self.facts(program, found).get("says", ()), watch.line()]
        context.record(self.title, {"latency_target": watch.to_dict(), "says": says})
        return found

    def stepwise(self, program: Program, context: Context, full: Mapping[str, int], watch: Clock | None) -> Program:
        """Cut as often as there are steps; ``watch`` tells latency, if that is limited."""
        first = limits(analyze(program), self.constraints, watch)
        now = shares(analyze(program), first, watch)
        for step in range(1, self.iterative_steps + 1):
            done = SCHEDULES[self.schedule](step / self.iterative_steps)
            analysis = watch.turn_to(program) if watch is not None else analyze(program)
            ranking = self.ranked(analysis, [a for a in self.candidates(analysis) if a.name in full], full, context)
            allowed = {kind: now[kind] + (limit - now[kind]) * done for kind, limit in first.items()}
            if watch is not None:
                ranking = watch.paying(ranking)
            sized = partial(self.sized, analysis, ranking, full, done, allowed, watch)
            if watch is None or step < self.iterative_steps:
                program = slice(program, ranking.keep(sized()))
            else:
                program = watch.meet(allowed[LATENCY], program, ranking, sized)
            name = f"{self.title}-{step}"
            for stage in self.stages():
                program = apply(stage, program, context.within(name), done=[f"step {step} of {self.title}"])
            if self.iterative_steps > 1:
                context.progress(step, self.iterative_steps, self.title)
        return program

    def ranked(self, analysis: Analysis, axes: list[Axis], full: Mapping[str, int], context: Context) -> Ranking:
        """All units by importance."""
        groups = grouped(analysis, axes, self.ranking)
        ratios = self.ratios(axes)
        groups = {a: (group, ratios[a]) for a, group in groups.items()}
        needs = {need.axis.root(): need for need in analysis.needs}
        allowed: dict[Axis, Allowed] = {}
        for axis in axes:
            need = needs.get(axis)
            kept = math.ceil(full[axis.name] * (1 - self.max_pruning_ratio) - 1e-9)
            least = max(1, self.min_size, kept, need.least if need else 1)
            multiple = math.lcm(self.round_to, need.multiple if need else 1)
            allowed[axis] = Allowed(multiple, min(axis.size, least))
        scores = self.scores(analysis, axes, context)
        if self.sensitivity is not None:
            weights = losses(self.sensitivity, full)
            scores = {axis: values * weights[axis.name] for axis, values in scores.items()}
        return rank(scores, groups, allowed)

    def sized(
        self,
        analysis: Analysis,
        ranking: Ranking,
        full: Mapping[str, int],
        done: float,
        allowed: Mapping[str, float],
        watch: Clock | None,
    ) -> Mapping[Axis, int]:
        """Sizes for a share of the ratio, or for a budget.

        Raises:
            GraphError: the budget cannot be met; says the least that can.
        """
        if self.pruning_ratio is not None:
            return ranking.by_ratio({a: r * done for a, r in self.ratios(list(ranking.scores)).items()}, full)
        sizes = ranking.by_budget(fitting(analysis, allowed, watch), fill=watch is not None)
        if sizes is None:
            least = reachable(analysis, ranking.sizes(len(ranking.order)), allowed, watch)
            raise GraphError(
                f"{self.type} cannot meet the constraints {dict(self.constraints)}",
                where=f"pass {self.title}",
                why=f"the least that it can reach is {least}; the rest is pinned or not its own",
                hint="allow more, lower round_to and min_size, or prune other axes and layers first",
            )
        return sizes

    def ensures(self, before: Program, after: Program) -> None:
        """The program really became smaller, and meets its limits."""
        if not fitting(analyze(after), limits(analyze(before), only_exact(self.constraints)))({}):
            raise GraphError(f"{self.type} missed its constraints", where=f"pass {self.title}")
        entries = [sum(t.numel() for t in program.tensors().values()) for program in (before, after)]
        if self.selection() and entries[1] >= entries[0]:
            raise GraphError(f"{self.type} removed nothing", where=f"pass {self.title}")

    def probes(self, program: Program, context: Context) -> Mapping[str, Callable[[float], Program]]:
        """Each axis alone, cut by importance."""
        analysis = analyze(program)
        axes = self.candidates(analysis)
        scores = self.scores(analysis, axes, context)

        def cut(axis: Axis, ratio: float) -> Program:
            size = max(1, axis.size - round(axis.size * ratio))
            return slice(
                program, {axis.name: sorted(scores[axis].argsort(descending=True, stable=True)[:size].tolist())}
            )

        return {axis.name: partial(cut, axis) for axis in axes}

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """Budgets, asked and reached; latency tells its own."""
        return told(analyze(before), analyze(after), self.constraints)
