"""Settings: the options that all passes that train have, each with what it accepts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graphc.errors import RecipeError
from graphc.pipeline.base import Pass

from ..drop import MaxDrop, allowed_drop
from ..during import Hook, make_hook
from ..losses import LOSSES, PRESETS, Loss, make_losses
from .log import Kind, find_writer
from .optimisation import OPTIMIZERS, SCHEDULES, check_options

Specs = tuple[dict[str, Any], ...]
Losses = Annotated[
    str | Specs,
    Field(
        description=f"Terms that are added up, {{type: kl, weight: 0.5}}, of {', '.join(sorted(LOSSES))}; "
        f"or one of {', '.join(PRESETS)}."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Settings(Pass):
    """A pass that trains: how long, by which optimiser, on what, and what is kept."""

    trains: ClassVar[bool] = True
    epochs: Annotated[int | None, Field(ge=1, description="Times to go through the data; or give steps.")] = None
    steps: Annotated[int | None, Field(ge=1, description="Steps of the optimizer; or give epochs.")] = None
    optimizer: Annotated[str, Field(description=f"One of torch.optim: {', '.join(sorted(OPTIMIZERS))}.")] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1e6, description="The greatest, after the warm-up.")] = 1e-3
    weight_decay: Annotated[
        float, Field(ge=0, le=1e6, description="Of matrices and kernels; biases and norms have none.")
    ] = 0.0
    optimizer_options: Annotated[
        dict[str, Any], Field(description="More arguments of the optimizer: {momentum: 0.9}.")
    ] = field(default_factory=dict)
    schedule: Annotated[str, Field(description=f"Of the learning rate: {', '.join(SCHEDULES)}.")] = "cosine"
    warmup: Annotated[
        float, Field(ge=0, description="In which the rate rises: a share of all steps if below 1, else steps.")
    ] = 0.0
    accumulate: Annotated[int, Field(ge=1, description="Batches whose gradients make one step.")] = 1
    max_grad_norm: Annotated[float | None, Field(gt=0, description="Gradients are scaled down to this norm.")] = None
    precision: Annotated[
        Literal["float32", "bfloat16"], Field(description="bfloat16: autocast; weights stay float32.")
    ] = "float32"
    gradient_checkpointing: Annotated[
        bool, Field(description="Compute the layers' inner values again in the backward pass instead of keeping them.")
    ] = False
    compile: Annotated[bool, Field(description="Run the student by torch.compile.")] = False
    data: Annotated[str, Field(description="Which of the recipe's data to train on.")] = "train"
    labels: Annotated[str | None, Field(description="Name of the labels in batches that are mappings.")] = None
    evaluate_every: Annotated[
        int | None, Field(ge=1, description="Steps between evaluations; by default after each epoch.")
    ] = None
    keep: Annotated[Literal["best", "last"], Field(description="Weights to keep, by the recipe's metric.")] = "best"
    patience: Annotated[
        int | None, Field(ge=1, description="Stop after so many evaluations without a better metric.")
    ] = None
    max_drop: MaxDrop = None
    during: Annotated[
        Specs, Field(description="What goes on beside: {type: gradual-sparsity, ...}, {type: freeze}.")
    ] = ()
    checkpoint_every: Annotated[
        int | None, Field(ge=1, description="Steps between checkpoints; by default after each epoch.")
    ] = None
    log: Annotated[Kind | None, Field(description="Figures of every step beside the checkpoint.")] = "csv"
    losses: Losses = ()

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        where = f"pass {self.title}"
        if (self.epochs is None) == (self.steps is None):
            raise RecipeError(f"{self.type} needs exactly one of epochs and steps", where=where, hint="epochs: 3")
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"no schedule is called {self.schedule!r}", where=where, hint=", ".join(SCHEDULES))
        check_options(self.optimizer, self.optimizer_options)
        find_writer(self.log)
        self.allowed_drop(1.0)
        _check_alone(self.hooks())
        if not self.terms():
            raise RecipeError(f"{self.type} has no loss", where=where, hint="losses: [{type: cross-entropy}]")

    def terms(self) -> list[Loss]:
        """The losses."""
        return make_losses(self.losses)

    def hooks(self) -> list[Hook]:
        """What goes on beside the training."""
        return [make_hook(spec, f"during[{i}]") for i, spec in enumerate(self.during)]

    def reduces(self) -> Collection[str]:
        """Nothing, unless a hook does."""
        return super().reduces() if self.during else ()

    def needs_data(self) -> Mapping[str, str]:
        """What to train on."""
        return {self.data: "to train on"}

    def allowed_drop(self, baseline: float) -> float | None:
        """How much worse the metric may be than this; None for any.

        Raises:
            RecipeError: ``max_drop`` is neither a number nor a percentage.
        """
        return allowed_drop(self.max_drop, baseline, f"pass {self.title}")


def _check_alone(hooks: Sequence[Hook]) -> None:
    """No hook that must be alone meets another that rewrites the program.

    Raises:
        RecipeError: one does.
    """
    rewriting = [hook for hook in hooks if type(hook).prepare is not Hook.prepare]
    alone = next((hook.type for hook in rewriting if hook.alone), None)
    if alone is not None and len(rewriting) > 1:
        what = f"{alone} goes with no other hook that rewrites the program"
        why = f"there are {', '.join(hook.type for hook in rewriting)}"
        raise RecipeError(what, where="during", why=why, hint="train in two passes, one after the other")
