"""Loss: the contract of everything that training minimises, and how a recipe names it."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from graphc.errors import RecipeError, nearest
from graphc.pipeline.checked import Checked, find_class, make

from .presets import PRESETS

LOSSES: dict[str, type[Loss]] = {}
"""All losses by type; a subclass of Loss with a type is known once its module is imported."""

Pairing = Literal["auto", "absorb", "last"]
Reads = Literal["outputs", "features", "attention"]


@dataclass(frozen=True)
class Seen:
    """What a loss looks at: values of one batch, or of one process's share of it.

    Attributes:
        student, teacher: the same value of both: one tensor; or queries, keys and values, each
            ``[batch, heads, tokens, size]``, for losses that read attention. The teacher's are
            empty for losses that need none.
        labels: as the data gives them; None if it gives none.
        mask: bool ``[batch, tokens]``, False at padding; None if the program takes no such input. Losses
            leave it aside where a value has no such tokens (``graphc.passes.losses.pairs.fitting``).
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
        """The mean over what ``count`` counts; 0 if it counts nothing."""

    def count(self, labels: Any, mask: Tensor | None, samples: int) -> float:
        """How many entries the mean is over, known before the programs run.

        Means of several batches, or of several processes, are weighted by it, so that their sum is
        the mean over all. Samples, by default.

        Args:
            labels: as the data gives them.
            mask: as in Seen, but None where the value that the loss looks at has no such tokens.
            samples: in the batch.
        """
        return float(samples)


@dataclass(frozen=True, kw_only=True)
class OfOutputs(Loss, abc.ABC):
    """A loss that reads an output of the programs."""

    output: Annotated[str | None, Field(description="Name of the output; by default the first one of floats.")] = None


@dataclass(frozen=True, kw_only=True)
class OfFeatures(Loss, abc.ABC):
    """A loss that reads values inside the programs: of one place in each, or of pairs.

    The values of all pairs are added up.
    """

    reads: ClassVar[Reads] = "features"
    student: Annotated[
        str | None, Field(description="Where in the student: a module path, the name of an axis, or a node.")
    ] = None
    teacher: Annotated[str | None, Field(description="Where in the teacher; by default the same as student.")] = None
    pairs: Annotated[
        Pairing | tuple[tuple[str, str], ...] | None,
        Field(
            description="auto: each block with the one it was; absorb: with the last that was removed after it; "
            "last: only the last; or [[student, teacher], ...]."
        ),
    ] = None

    def __post_init__(self) -> None:
        """Check the options, and that places are given in exactly one way."""
        super().__post_init__()
        if (self.student is None) == (self.pairs is None) or (self.teacher is not None and self.student is None):
            hint = "give student (and teacher, where it is called otherwise), or pairs: auto"
            raise RecipeError(f"the loss {self.type} needs to know where to look", where="losses", hint=hint)

    def chosen(self) -> Pairing | list[tuple[str, str]]:
        """Pairs of names of student and teacher, or how to find them."""
        if self.student is not None:
            return [(self.student, self.teacher or self.student)]
        assert self.pairs is not None
        return self.pairs if isinstance(self.pairs, str) else list(self.pairs)


def find_loss_type(name: str) -> type[Loss]:
    """The loss of this type, or the subclass of Loss at ``package.module:Class``.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    return find_class(name, LOSSES, Loss, "losses")  # type: ignore[type-abstract] # it is not called


def make_losses(specs: str | Iterable[Mapping[str, Any]]) -> list[Loss]:
    """Losses from their YAML forms, or from the name of a preset.

    Raises:
        RecipeError: a name or an option is not known, or a value is wrong.
    """
    if isinstance(specs, str):
        if specs not in PRESETS:
            raise RecipeError(f"no preset of losses is called {specs!r}", where="losses", hint=nearest(specs, PRESETS))
        specs = PRESETS[specs]
    return [make_loss(spec, f"losses[{i}]") for i, spec in enumerate(specs)]


def make_loss(spec: Mapping[str, Any], where: str) -> Loss:
    """A loss from its YAML form ``{type: kl, temperature: 4, weight: 0.5}``.

    Raises:
        RecipeError: the type or an option is not known, or a value is wrong.
    """
    return make(spec, find_loss_type, where, Loss.kind, "{type: kl, weight: 1.0}")
