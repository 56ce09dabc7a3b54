"""finetune: train the program on labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.errors import RecipeError
from graphc.ir.program import Program
from graphc.pipeline.base import Context

from .training.settings import Losses
from .training.train import Train


@dataclass(frozen=True, kw_only=True)
class Finetune(Train):
    """Train the program on labelled data.

    The weights with the best metric on the data called ``eval`` are kept, if the recipe has a metric.
    Masks stay; tied weights stay one. With a seed the result is the same on a CPU each time, also
    after an interruption (``--resume``). Runs in several processes under ``accelerate launch``.
    """

    type: ClassVar[str] = "finetune"
    losses: Losses = ({"type": "cross-entropy"},)

    def __post_init__(self) -> None:
        """Check the options, and that no loss needs a teacher."""
        super().__post_init__()
        for loss in self.terms():
            if loss.needs_teacher:
                hint = "use the pass distill, which has a teacher"
                raise RecipeError(f"the loss {loss.type} needs a teacher", where=f"pass {self.title}", hint=hint)

    def teacher_program(self, student: Program, context: Context) -> Program | None:
        """None."""
        return None
