"""Bilevel: steps of the weights on training data, each after a step of the architecture on data of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from graphc.pipeline.batches import Batch

from .checkpoint import Saved, optimizer_tensors, restore_optimizer
from .feed import Endless, Feed
from .loop import Loop, drawing
from .variants import WHOLE, factors_of

APART = 500_009
"""What is added to the seed of a step, so that its two passes draw different numbers (dropout)."""


@dataclass
class Bilevel(Loop):
    """The first-order search of Liu et al. 2019: the architecture descends the validation loss at the present weights.

    Attributes:
        architecture: the parameters that the weights' optimiser does not have.
        searcher: their optimiser.
        validation: what they are trained on.
        after: before, only the weights are trained: a share of all steps if below 1, else steps.
    """

    architecture: Sequence[Parameter]
    searcher: Optimizer
    validation: Feed
    after: float

    def __post_init__(self) -> None:
        """Two optimisers; of the validation data as many batches are done as steps that searched."""
        super().__post_init__()
        self.begin = int(self.after * self.steps if self.after < 1 else self.after)
        self.batches = Endless(self.validation, max(0, self.state.step - self.begin))

    def trained(self) -> dict[str, Parameter]:
        """The weights."""
        own = set(map(id, self.architecture))
        return {name: parameter for name, parameter in super().trained().items() if id(parameter) not in own}

    def _step(self, group: Sequence[Batch]) -> float:
        if self.state.step >= self.begin:
            self._search(next(self.batches))
        return super()._step(group)

    def _search(self, batch: Batch) -> None:
        """A step of the architecture."""
        with (
            drawing(self.context.seed + APART, self.state.step, self.feed.rank, self.accelerator.device),
            self._autocast(),
        ):
            factors = factors_of(WHOLE, self.stage.terms, self._factors([batch])[0], [WHOLE])
            found = self.stage(batch, self.teach(batch), factors)
        self._check(found.detach())
        self.searcher.zero_grad()
        found.sum().backward(inputs=list(self.architecture))
        if self.feed.world > 1:
            for parameter in self.architecture:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        self.searcher.step()

    def to_go_on(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        """What a checkpoint needs besides the program."""
        groups, numbers = super().to_go_on()
        tensors, own = optimizer_tensors(self.searcher)
        return {**groups, "searcher": tensors}, {"weights": numbers, "architecture": own}

    def go_on(self, saved: Saved, optimizer: Optimizer) -> None:
        """Take what ``to_go_on`` gave."""
        super().go_on(Saved(saved.state, saved.groups, saved.more["weights"]), optimizer)
        restore_optimizer(self.searcher, saved.groups.get("searcher", {}), saved.more["architecture"])
