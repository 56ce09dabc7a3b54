"""tie-weights: let layers share their weights, or named tensors be one; or take names out of a tie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from graphc.coupling import Analysis, analyze
from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.program import Program
from graphc.ir.tying import untie
from graphc.pipeline.base import Context, Pass

from .blocks import Block, DifferenceError, Family, divided, families, family, find_blocks, outermost
from .calibration import Calibration
from .layer_importance import LAYER_CRITERIA, NEED_DATA
from .layer_parts import PARTS, part_of
from .options import DataName, LossName, Names, Samples
from .select import choose, matches
from .shares import Share, mean, named, of_layer, unite

Init = Literal["first", "mean", "best"]
Ties = Annotated[
    tuple[Annotated[tuple[str, ...], Field(min_length=2)], ...],
    Field(description="Explicit: lists of tensor names, each list to be one; transposed where only that fits."),
]


@dataclass(frozen=True, kw_only=True)
class TieWeights(Pass):
    """Cross-layer parameter sharing (Lan et al. 2020, ALBERT), and ties between named tensors.

    Layers that share are isomorphic: the same graph around tensors of the same shapes. By default these are all such
    layers of each list in the model; ``targets`` names others. A tied tensor is one tensor with several names, in every
    later pass, in training and in every file. The function changes unless the tensors were equal: train after it.
    """

    type: ClassVar[str] = "tie-weights"
    whole: ClassVar[bool] = True
    groups: Annotated[int, Field(ge=1, description="Layers of a list are divided into so many groups that share.")] = 1
    parts: Annotated[
        tuple[str, ...],
        Field(description=f"What is shared: {', '.join(PARTS)}, or names within a layer; all by default."),
    ] = ()
    init: Annotated[
        Init, Field(description="What a shared tensor is at first: the first layer's, the mean, or the best layer's.")
    ] = "first"
    importance: Annotated[
        str, Field(description=f"By what the best layer has most: {', '.join(sorted(LAYER_CRITERIA))}.")
    ] = "l2"
    ties: Ties = ()
    untie: Annotated[tuple[str, ...], Field(description="Names that get a tensor of their own, with its values.")] = ()
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    loss: LossName = "cross-entropy"
    targets: Names = ()
    ignore: Names = ()

    def __post_init__(self) -> None:
        """Check the options, and that they are about layers or about names."""
        super().__post_init__()
        where = f"pass {self.title}"
        if self.importance not in LAYER_CRITERIA:
            hint = nearest(self.importance, LAYER_CRITERIA)
            raise RecipeError(f"no importance of layers is called {self.importance!r}", where=where, hint=hint)
        of_layers = self.groups > 1 or self.parts or self.targets or self.ignore or self.init == "best"
        if self.by_name and of_layers:
            hint = "layers share in a pass of its own"
            raise RecipeError(
                "ties and untie are about names; groups, parts, targets, ignore and init: best are about layers",
                where=where,
                hint=hint,
            )

    @property
    def by_name(self) -> bool:
        """Are tensors named, and layers left alone?"""
        return bool(self.ties or self.untie)

    def needs_data(self) -> Mapping[str, str]:
        """Calibration data, if the best layer is found by a criterion that looks at some."""
        if self.init != "best" or self.importance not in NEED_DATA:
            return {}
        return {self.calibration_data: f"importance: {self.importance}"}

    def reduces(self) -> tuple[str, ...]:
        """All but products."""
        return ("params", "bytes")

    def requires(self, program: Program) -> None:
        """There is something to tie, and its axes unify."""
        program = self._untied(program)
        analysis, tensors = analyze(program), program.tensors()
        shares = self.shares(analysis)
        _check_axes(analysis, unite(program, {share: tensors[share.names[0]] for share in shares}), self.title)

    def shares(self, analysis: Analysis) -> list[Share]:
        """All tensors that become one.

        Raises:
            GraphError: layers are not alike, tensors do not fit each other, or there is nothing to tie.
        """
        if self.by_name:
            return [named(analysis.program, names, f"pass {self.title}") for names in self.ties]
        found = [share for one in self._families(analysis) for share in self._of_family(analysis, one)]
        if not found:
            why = "the layers that are alike have no tensors of their own in the parts that are named"
            raise GraphError("tie-weights has nothing to tie", where=f"pass {self.title}", why=why)
        return found

    def run(self, program: Program, context: Context) -> Program:
        """Point every reader to the tensor that stays."""
        program = self._untied(program)
        analysis = analyze(program)
        shares = self.shares(analysis)
        calibration = Calibration.of(context, self.calibration_data, self.num_calibration_samples, self.loss)
        best = self._best(analysis, shares, calibration) if self.init == "best" else {}
        return unite(program, {share: self._value(program, share, best) for share in shares})

    def ensures(self, before: Program, after: Program) -> None:
        """Every tensor that was to go is gone, and its name is one of another's; all others are there."""
        untied = self._untied(before)
        left = set(untied.tensors())
        for share in self.shares(analyze(untied)):
            for name in set(share.names) - {share.names[0]}:
                left.discard(name)
                if name not in share.turned and after.aliases.get(name) != share.names[0]:
                    raise GraphError(f"{name} is not {share.names[0]}", where=f"pass {self.title}")
        wrong = left.symmetric_difference(after.tensors())
        if wrong:
            raise GraphError(f"{min(wrong)} should have been tied or untied", where=f"pass {self.title}")

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """Which layers share, and what that saves."""
        before = self._untied(before)
        shares = self.shares(analyze(before))
        tensors = before.tensors()
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for share in shares:
            groups[tuple(b.name for b in share.layers) or share.names].append(share.names[0])
        says = [
            f"{', '.join(names)} share {sum(tensors[kept].numel() for kept in kept_names):,} parameters"
            for names, kept_names in groups.items()
        ]
        return {"shared": {names[0]: list(names) for names in groups}, "says": says}

    def _untied(self, program: Program) -> Program:
        """The program after ``untie``, which comes before ``ties``."""
        for name in self.untie:
            program = untie(program, name)
        return program

    def _families(self, analysis: Analysis) -> list[Family]:
        """The layers that are alike.

        Raises:
            GraphError: there are none, or those that are named are not.
        """
        where = f"pass {self.title}"
        blocks = find_blocks(analysis)
        if not blocks:
            why = "no module of the model is one of a list, and no residual region repeats"
            raise GraphError("tie-weights finds no layers", where=where, why=why, hint="name tensors in `ties`")
        chosen = choose(blocks, _names_of, self.targets, self.ignore, self.title)
        if self.targets:
            return list(self._named_families(analysis, outermost(chosen)))
        found = families(analysis, chosen)
        if not found:
            raise GraphError(
                "tie-weights finds no layers that are alike", where=where, why=_first_difference(analysis, chosen)
            )
        return found

    def _named_families(self, analysis: Analysis, blocks: Sequence[Block]) -> Iterator[Family]:
        stacks: dict[str, list[Block]] = defaultdict(list)
        for block in blocks:
            stacks[block.stack].append(block)
        for stack, members in stacks.items():
            if len(members) == 1:
                why = f"{members[0].name} is the only layer of its kind that targets speaks of"
                raise GraphError("tie-weights has nothing to tie", where=f"pass {self.title}", why=why)
            try:
                yield family(analysis, members)
            except DifferenceError as difference:
                raise GraphError(
                    f"the layers {stack} are not alike",
                    where=f"pass {self.title}",
                    why=str(difference),
                    hint="name layers that are alike in targets, or share only some of their parts",
                ) from difference

    def _of_family(self, analysis: Analysis, one: Family) -> Iterator[Share]:
        if self.groups >= len(one.blocks):
            why = f"there are {len(one.blocks)} layers: {', '.join(block.name for block in one.blocks[:3])} ..."
            hint = f"give fewer than {len(one.blocks)}, or say in targets which layers share"
            raise GraphError(
                f"{self.groups} groups leave nothing to share", where=f"pass {self.title}", why=why, hint=hint
            )
        wanted = self._wanted(analysis, one)
        for places in divided(one.blocks, self.groups):
            for name in wanted:
                names = tuple(one.tensors[i][name] for i in places)
                if len(set(names)) > 1:
                    yield Share(names, layers=tuple(one.blocks[i] for i in places))

    def _wanted(self, analysis: Analysis, one: Family) -> list[str]:
        """Names of the first layer's tensors that ``parts`` speaks of."""
        first, names = one.blocks[0], list(one.tensors[0])
        if not self.parts:
            return names
        nodes = {str(n.target): n for n in analysis.program.graph.nodes if n.op == "get_attr"}
        known = {name: (part_of(first, nodes[name]), name.removeprefix(f"{first.name}."), name) for name in names}
        for part in self.parts:
            if not any(_is_of(part, said) for said in known.values()):
                hint = nearest(part, {word for said in known.values() for word in said[:2]})
                raise RecipeError(
                    f"no tensor of {first.name} is of the part {part!r}", where=f"pass {self.title}", hint=hint
                )
        return [name for name, said in known.items() if any(_is_of(part, said) for part in self.parts)]

    def _value(self, program: Program, share: Share, best: Mapping[Share, int]) -> torch.Tensor:
        """What the shared tensor is at first."""
        first = program.tensors()[share.names[0]]
        if self.init == "first" or not first.is_floating_point():
            return first
        return mean(program, share) if self.init == "mean" else of_layer(program, share, best[share])

    def _best(self, analysis: Analysis, shares: Iterable[Share], calibration: Calibration) -> dict[Share, int]:
        """For each the place of the layer with the greatest score."""
        groups = {share.layers for share in shares}
        criterion = LAYER_CRITERIA[self.importance]
        places: dict[tuple[Block, ...], int] = {}
        for layers in groups:
            scores = criterion(analysis, [block.layer() for block in layers], calibration)
            places[layers] = max(range(len(layers)), key=scores.__getitem__)
        return {share: places[share.layers] for share in shares}


def _check_axes(before: Analysis, tied: Program, title: str) -> None:
    """No axis may be pinned for a reason that was not there: tied tensors divide it in ways that do not fit.

    Raises:
        GraphError: one is; the reason is said.
    """
    known = {axis.pinned for axis in before.axes}
    for axis in analyze(tied).axes:
        if axis.pinned is not None and axis.pinned not in known:
            raise GraphError(
                f"tied weights would pin the axis {axis.name}",
                where=f"pass {title}",
                why=axis.pinned,
                hint="tie tensors whose dims mean the same",
            )


def _names_of(block: Block) -> list[str]:
    return [block.name]


def _is_of(part: str, said: tuple[str, str, str]) -> bool:
    """Is a tensor, of which is said its part, its name within the layer and its whole name, spoken of?"""
    return part == said[0] if part in PARTS else matches(part, said[1:])


def _first_difference(analysis: Analysis, blocks: Sequence[Block]) -> str:
    """Of the first two layers that stand beside each other."""
    stacks: dict[str, Block] = {}
    for block in outermost(blocks):
        if block.stack in stacks:
            try:
                family(analysis, [stacks[block.stack], block])
            except DifferenceError as difference:
                return str(difference)
        stacks.setdefault(block.stack, block)
    return "no two layers stand beside each other that have tensors of their own"
