"""Loss: the contract of everything that training minimises, and how a recipe names it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from graphc.errors import RecipeError, nearest
from graphc.pipeline.checked import Checked, make
from graphc.pipeline.targets import find_target

LOSSES: dict[str, type[Loss]] = {}
"""All losses by type; a subclass of Loss with a type is known once its module is imported."""

Reads = Literal["outputs", "features", "attention"]


@dataclass(frozen=True)
class Seen:
    """What a loss looks at: values of one batch, or of one process's share of it.

    Attributes:
        student, teacher: the same value of both: one tensor; or queries, keys and values, each
            ``[batch, heads, tokens, size]``, for losses that read attention. The teacher's are
            empty for losses that need none.
        labels: as the data gives them; None if it gives none.
        mask: bool ``[batch, tokens]``, False at padding; None if the program takes no such input.
    """

    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...] = ()
    labels: Any = None
    mask: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Loss(Checked, abc.ABC):
    """One term of what training minimises. Called with what it looks at, it gives a scalar: a mean.

    Attributes:
        reads: outputs of the programs; features, by name or in pairs; or what enters attention.
        needs_labels, needs_teacher: whether it can do without.
        fits: whether both sides must be of one size, so that a projection is trained where they are not.
    """

    kind: ClassVar[str] = "loss"
    reads: ClassVar[Reads] = "outputs"
    needs_labels: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True
    fits: ClassVar[bool] = False
    weight: Annotated[float, Field(gt=0, description="What the term is multiplied by.")] = 1.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the loss known by its type."""
        super().__init_subclass__(**kwargs)
        if cls.type:
            LOSSES[cls.type] = cls

    @abc.abstractmethod
    def __call__(self, seen: Seen) -> Tensor:
        """The mean over what ``count`` counts."""

    def count(self, labels: Any, mask: Tensor | None, samples: int) -> float:
        """How many entries the mean is over, known before the programs run.

        Means of several batches, or of several processes, are weighted by it, so that their sum is
        the mean over all. Samples, by default.
        """
        return float(samples)


def find_loss_type(name: str) -> type[Loss]:
    """The loss of this type, or the subclass of Loss at ``package.module:Class``.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if ":" in name:
        found = find_target(name, "losses")
        if isinstance(found, type) and issubclass(found, Loss):
            return found
        raise RecipeError(f"{name!r} is no loss", where="losses", hint="it must be a subclass of graphc.passes.Loss")
    if name not in LOSSES:
        hint = f"{nearest(name, LOSSES)}; or write package.module:Class"
        raise RecipeError(f"no loss is called {name!r}", where="losses", hint=hint)
    return LOSSES[name]


def make_loss(spec: Mapping[str, Any], where: str) -> Loss:
    """A loss from its YAML form ``{type: kl, temperature: 4, weight: 0.5}``.

    Raises:
        RecipeError: the type or an option is not known, or a value is wrong.
    """
    return make(spec, find_loss_type, where, Loss.kind, "{type: kl, weight: 1.0}")
