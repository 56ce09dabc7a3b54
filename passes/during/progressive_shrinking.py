"""progressive-shrinking: sub-networks of all sizes are trained together, in the weights of the largest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from pydantic import Field

from graphc.errors import RecipeError
from graphc.ir.program import Program
from graphc.pipeline.base import Context

from ..elastic.finding import find_space
from ..elastic.masked import Masks, masked, unmasked
from ..elastic.space import Choice, Space
from ..losses import Loss
from ..losses.loss import OfOutputs, make_loss
from ..options import Names
from .hook import Actions, Hook, Variant

C = TypeVar("C", bound=Choice)
Shares = tuple[Annotated[float, Field(gt=0, le=1)], ...]
Ratios = tuple[Annotated[float, Field(gt=0)], ...]
Counts = tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True, kw_only=True)
class ProgressiveShrinking(Hook):
    """Makes a network elastic (Cai et al. 2020, Once-for-All): any network, a supernet or not.

    Each step trains several sub-networks on its batch: by the sandwich rule the largest, the smallest and some at
    random (Yu and Huang 2019, Universally Slimmable Networks), and its gradient is the mean over them. First only the
    largest is trained; then kernels get smaller, one size after the other, then stages, then widths. What is left out
    is masked, so that a sub-network is trained exactly as ``slice-elastic`` cuts it out afterwards, without sorting
    channels; running statistics are those of the largest, so let ``recalibrate`` follow. The metric is that of
    the largest too, and the last weights are kept. A choice that no option speaks of stays as it is.
    """

    type: ClassVar[str] = "progressive-shrinking"
    alone: ClassVar[bool] = True
    kernel: Annotated[Counts, Field(description="Sizes of kernels of blocks, or of all where there are none.")] = ()
    depth: Annotated[Counts, Field(description="Numbers of blocks of stages.")] = ()
    expand: Annotated[
        Ratios, Field(description="Inner channels of blocks, as multiples of what enters them (leaves a bottleneck).")
    ] = ()
    inner: Annotated[Shares, Field(description="Instead of expand: as shares of what the blocks have.")] = ()
    width: Annotated[Shares, Field(description="Channels between blocks, and of what is no block, as shares.")] = ()
    blocks: Annotated[Names, Field(description="Which modules are blocks; found by default.")] = ()
    stages: Annotated[Counts, Field(description="Numbers of blocks of stages; found by default.")] = ()
    round_to: Annotated[int, Field(ge=1, description="Numbers of channels are multiples of this.")] = 8
    begin: Annotated[float, Field(ge=0, lt=1, description="Until when only the largest is trained: a share.")] = 0.0
    end: Annotated[
        float,
        Field(ge=0, lt=1, description="When the last values come: a share of the steps; at begin: all at once."),
    ] = 0.5
    sandwich: Annotated[bool, Field(description="Train the largest and the smallest in each step.")] = True
    subnetworks: Annotated[int, Field(ge=0, description="How many others are trained in each step.")] = 2
    inplace_distillation: Annotated[
        tuple[dict[str, Any], ...],
        Field(description="Losses by which the largest teaches the others, instead of labels: {type: kl}."),
    ] = ()

    def __post_init__(self) -> None:
        """Check the options, and that there is something to shrink and to train."""
        super().__post_init__()
        where = f"during: {self.type}"
        if not (self.kernel or self.depth or self.expand or self.inner or self.width):
            hint = "kernel: [7, 5, 3], depth: [4, 3, 2], expand: [6, 4, 3], or width: [1.0, 0.75, 0.5]"
            raise RecipeError("nothing is to become smaller", where=where, hint=hint)
        if self.expand and self.inner:
            raise RecipeError("expand and inner both say how wide blocks are", where=where, hint="give one of them")
        if self.begin > self.end:
            raise RecipeError(f"it ends at {self.end}, before it begins at {self.begin}", where=where)
        if not self.sandwich and (not self.subnetworks or self.inplace_distillation):
            what = "teaches the others in each step" if self.subnetworks else "is trained at least"
            raise RecipeError("without the sandwich rule there is no largest that " + what, where=where)
        for loss in self.lessons():
            if not loss.needs_teacher or not isinstance(loss, OfOutputs):
                why = f"{loss.type} reads {loss.reads}" + ("" if loss.needs_teacher else " and has no teacher")
                hint = "{type: kl, temperature: 1.0}, or {type: logits-mse} for values"
                raise RecipeError(f"the largest cannot teach by {loss.type}", where=where, why=why, hint=hint)

    def lessons(self) -> Sequence[Loss]:
        """What the largest teaches by."""
        return [make_loss(s, f"{self.type}.inplace_distillation[{i}]") for i, s in enumerate(self.inplace_distillation)]

    def space(self, program: Program) -> Space:
        """All that can be chosen in the end.

        Raises:
            GraphError: the program has nothing of it.
            RecipeError: no kernel or stage can have a value that is asked for.
        """
        return find_space(
            program,
            kernel=self.kernel,
            expand=self.expand or None,
            inner=self.inner,
            width=self.width,
            depth=self.depth,
            blocks=self.blocks,
            stages=self.stages,
            matrices=False,
            round_to=self.round_to,
        )

    def prepare(self, program: Program, context: Context) -> Program:
        """The program with masks."""
        return masked(program, self.space(program))

    def start(self, program: Program) -> Actions:
        """Sub-networks in each step, and the largest between steps."""
        space = self.space(unmasked(program))
        masks, phases = Masks(program, space), list(phases_of(space))

        def variants(seed: int, step: int, steps: int) -> list[Variant]:
            phase = phases[self.phase(len(phases), step, steps)]
            drawn = torch.Generator().manual_seed(seed * 1_000_003 + step)
            specs = [phase.sample(drawn) for _ in range(self.subnetworks)]
            if phase.count == 1:
                specs = [space.largest]
            elif self.sandwich:
                specs = [space.largest, phase.smallest, *specs]
            taught = bool(self.inplace_distillation)
            return [
                Variant(partial(masks, spec), taught and i > 0, i == 0 or not self.sandwich)
                for i, spec in enumerate(specs)
            ]

        return Actions(after=lambda step, steps: masks(space.largest), variants=variants)

    def phase(self, phases: int, step: int, steps: int) -> int:
        """Which of so many phases it is after so many of all steps; the first one, up to ``begin``, is the largest."""
        first, last = self.begin * steps, self.end * steps
        if step < first:
            return 0
        share = (step - first) / (last - first) if step < last else 1.0
        return min(phases - 1, 1 + int(share * (phases - 1)))

    def settled(self, step: int, steps: int) -> bool:
        """Not before the last step: the metric does not say how good sub-networks are."""
        return step >= steps

    def finish(self, program: Program) -> Program:
        """The largest, without masks."""
        return unmasked(program)


def phases_of(space: Space) -> Iterator[Space]:
    """What can be chosen in each phase: nothing; a smaller kernel more each time; then fewer blocks; then channels."""
    yield Space()
    for count in range(2, _most(space.kernels) + 1):
        yield Space(_first(space.kernels, count))
    for count in range(2, _most(space.depths) + 1):
        yield Space(space.kernels, (), _first(space.depths, count))
    for count in range(2, _most(space.widths) + 1):
        yield Space(space.kernels, _first(space.widths, count), space.depths)


def _most(choices: Sequence[Choice]) -> int:
    return max((len(choice.values) for choice in choices), default=1)


def _first(choices: Sequence[C], count: int) -> tuple[C, ...]:
    return tuple(replace(choice, values=choice.values[:count]) for choice in choices)
