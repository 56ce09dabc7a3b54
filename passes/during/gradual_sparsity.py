"""gradual-sparsity: weights become zero little by little while the others learn to do without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from graphc.errors import RecipeError
from graphc.ir.masks import find_masks, put_masks
from graphc.ir.program import Program
from graphc.pipeline.base import Context

from ..options import Names
from ..sparsify import lowest, weights
from .hook import Actions, Hook


@dataclass(frozen=True, kw_only=True)
class GradualSparsity(Hook):
    """Magnitude pruning on the cubic schedule of Zhu and Gupta 2017, "To prune, or not to prune".

    ``s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3``: every ``frequency`` steps between ``begin``
    and ``end`` the smallest weights up to that share are masked; a masked weight gets no gradient and
    stays zero. Masks stay with their weights after training, as those of ``sparsify`` do.
    """

    type: ClassVar[str] = "gradual-sparsity"
    sparsity: Annotated[float, Field(gt=0, lt=1, description="Share of the weights that is zero at the end.")]
    initial_sparsity: Annotated[float, Field(ge=0, lt=1, description="Share at the beginning.")] = 0.0
    begin: Annotated[float, Field(ge=0, lt=1, description="When it begins, as a share of the steps.")] = 0.0
    end: Annotated[float, Field(gt=0, le=1, description="When the share is reached; then the rest recovers.")] = 0.75
    frequency: Annotated[int, Field(ge=1, description="Steps from one removal to the next.")] = 10
    scope: Annotated[Literal["global", "tensor"], Field(description="Compare all weights, or those of a tensor.")] = (
        "global"
    )
    targets: Names = ()
    ignore: Names = ()

    def __post_init__(self) -> None:
        """Check the options, and that the end comes after the beginning."""
        super().__post_init__()
        if self.begin >= self.end or self.initial_sparsity >= self.sparsity:
            why = f"begin {self.begin}, end {self.end}; sparsity {self.initial_sparsity} to {self.sparsity}"
            raise RecipeError("gradual-sparsity must end later and with more than it begins", where="during", why=why)

    def wanted(self, step: int, steps: int) -> float:
        """The share after so many of all steps; 0 before the beginning."""
        first, last = self.begin * steps, self.end * steps
        if step < first:
            return 0.0
        left = max(0.0, 1 - (step - first) / (last - first))
        return self.sparsity + (self.initial_sparsity - self.sparsity) * left**3

    def names(self, program: Program) -> list[str]:
        """The weights that take part."""
        return list(weights(program, self.targets, self.ignore, self.type))

    def prepare(self, program: Program, context: Context) -> Program:
        """Masks that still let everything through, but for weights that are masked already."""
        known = {mask.weight for mask in find_masks(program)}
        tensors = program.tensors()
        new = {n: torch.ones_like(tensors[n], dtype=torch.bool) for n in self.names(program) if n not in known}
        return put_masks(program, new) if new else program

    def start(self, program: Program) -> Actions:
        """Mask more, when it is time."""
        own, tensors = set(self.names(program)), program.tensors()
        values = {m.weight: tensors[m.weight].detach() for m in find_masks(program) if m.weight in own}
        masks = {m.weight: tensors[m.mask] for m in find_masks(program) if m.weight in own}

        def after(step: int, steps: int) -> None:
            last = round(self.end * steps)
            share = self.wanted(step, steps)
            if share <= 0 or step > last or (step % self.frequency and step != last):
                return
            scores = {name: (value * masks[name]).abs() for name, value in values.items()}
            for name, keep in lowest(scores, dict.fromkeys(scores, 0), share, self.scope).items():
                masks[name].mul_(keep.to(masks[name].dtype))
                values[name].mul_(masks[name])

        return Actions(after=after)

    def settled(self, step: int, steps: int) -> bool:
        """All of the sparsity has come."""
        return step >= round(self.end * steps)

    def finish(self, program: Program) -> Program:
        """Weights say zero where their masks do."""
        tensors = program.tensors()
        own = set(self.names(program))
        return put_masks(program, {m.weight: tensors[m.mask].bool() for m in find_masks(program) if m.weight in own})
