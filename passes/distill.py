"""distill: train the program to do what a teacher does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graphc.errors import RecipeError
from graphc.ir.program import Program
from graphc.pipeline.base import Context

from .training.cache import Cache
from .training.settings import Losses
from .training.teacher import ORIGINAL, Teach, Teacher, find_teacher
from .training.train import Train


@dataclass(frozen=True, kw_only=True)
class Distill(Train):
    """Train the program to give what a teacher gives, and have inside what it has.

    The teacher is the program as captured, its state after an earlier pass, or another model with the
    same inputs. Data needs labels only for losses that read them. Features are found by module path or
    axis name in the graphs; where a loss wants them of one size, a projection is trained and then
    dropped. Otherwise as ``finetune``.

    Hinton et al. 2015, Distilling the Knowledge in a Neural Network; each loss names its own paper.
    """

    type: ClassVar[str] = "distill"
    teacher: Annotated[
        str | dict[str, Any],
        Field(description="original, the name of an earlier pass, or a model: {target: 'package.module:callable'}."),
    ] = ORIGINAL
    losses: Losses = "hinton"
    teacher_cache: Annotated[
        bool, Field(description="Keep the teacher's values on disk, so that it runs once for every sample.")
    ] = False

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if isinstance(self.teacher, dict) and not (
            "target" in self.teacher and self.teacher.keys() <= {"target", "kwargs"}
        ):
            hint = "write {target: 'package.module:callable', kwargs: {...}}"
            raise RecipeError(f"the teacher cannot be {self.teacher!r}", where=f"pass {self.title}", hint=hint)
        if not any(loss.needs_teacher for loss in self.terms()):
            hint = "add {type: kl}, or use the pass finetune"
            raise RecipeError("no loss looks at the teacher", where=f"pass {self.title}", hint=hint)

    def refers(self) -> Iterable[str]:
        """The pass whose result teaches."""
        return () if isinstance(self.teacher, dict) or self.teacher == ORIGINAL else (self.teacher,)

    def teacher_program(self, student: Program, context: Context) -> Program | None:
        """The teacher."""
        return find_teacher(self.teacher, student, context)

    def teach(self, teacher: Teacher, folder: Path | None) -> Teach:
        """The teacher itself, or a cache of what it gives."""
        return Cache(teacher, folder) if self.teacher_cache else teacher
