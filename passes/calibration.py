"""Calibration: the data that criteria look at, and what a program's loss says of its weights on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from graphc.errors import GraphError, RecipeError
from graphc.ir.program import Program
from graphc.ir.watch import Watch, run_watched
from graphc.pipeline.base import Context
from graphc.pipeline.batches import Batch, batches
from graphc.pipeline.objective import find_loss

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Calibration:
    """Data and what to make of it.

    Attributes:
        load: gives batches; None where a recipe has no such data.
        samples: how many to take; None for all.
        loss: name or target of the loss, for criteria that need gradients.
        seed: of what is drawn.
        progress: called with (samples done, of how many or 0, text).
    """

    load: Callable[[], Iterable[Any]] | None = None
    samples: int | None = None
    loss: str = "cross-entropy"
    seed: int = 0
    progress: Progress = field(default=lambda done, total, text: None)

    @staticmethod
    def of(context: Context, name: str, samples: int | None, loss: str = "cross-entropy") -> Calibration:
        """From a context's data of this name."""
        return Calibration(partial(context.loader, name), samples, loss, context.seed, context.progress)

    def batches(self, program: Program, what: str) -> Iterator[Batch]:
        """Batches as the program takes them.

        Raises:
            RecipeError: there is no data, or it does not fit.
        """
        if self.load is None:
            raise RecipeError(
                f"{what} needs calibration data",
                where="data",
                hint="add `data: {calibration: {target: 'package.module:callable'}}` to the recipe, "
                "or data={'calibration': loader} to graphc.compile",
            )
        done = 0
        for batch in batches(program, self.load(), self.samples):
            yield batch
            done += batch.size
            self.progress(done, self.samples or 0, what)


@dataclass(frozen=True)
class Gradients:
    """Of each parameter, by name: the mean gradient over the data, and the mean of its square over the batches."""

    mean: dict[str, torch.Tensor]
    square: dict[str, torch.Tensor]


def trainable(program: Program) -> dict[str, torch.Tensor]:
    """The parameters as tensors of the same memory that take gradients; the program's own are left alone."""
    return {
        name: value.detach().requires_grad_()
        for name, value in program.tensors().items()
        if isinstance(value, torch.nn.Parameter) and value.is_floating_point()
    }


def gradients(program: Program, calibration: Calibration, what: str, squares: bool = False) -> Gradients:
    """Gradients of the loss by every parameter, in evaluation mode, over the calibration data.

    Args:
        program: stays as it is; no ``grad`` is set.
        calibration: labelled batches.
        what: who asks, for errors.
        squares: whether the squares are wanted too.

    Raises:
        RecipeError: there is no data, or it has no labels.
        GraphError: the loss or a gradient is not finite; names it.
    """
    own = trainable(program)
    mean = {name: torch.zeros_like(value) for name, value in own.items()}
    square = {name: torch.zeros_like(value) for name, value in own.items()} if squares else {}
    seen = count = 0
    for batch in calibration.batches(program, what):
        value = loss_of(program, batch, calibration.loss, own, what)
        for name, gradient in _given(own, derivatives(value, own, what)):
            if not bool(torch.isfinite(gradient).all()):
                raise GraphError(f"{what}: the gradient of {name} is not finite", why=f"the loss is {float(value):.6g}")
            mean[name] += gradient * batch.size
            if squares:
                square[name] += gradient.square()
        seen, count = seen + batch.size, count + 1
    for name in own:
        mean[name] /= seen
        if squares:
            square[name] /= count
    return Gradients(mean, square)


def derivatives(value: torch.Tensor, own: Mapping[str, torch.Tensor], what: str) -> Sequence[torch.Tensor | None]:
    """Gradients of a loss by each of these tensors; None for those that it does not depend on.

    Raises:
        GraphError: it depends on none.
    """
    if not value.requires_grad:
        why = "no parameter in real numbers has an influence on it that has a gradient"
        raise GraphError(f"{what}: the loss depends on no parameter", why=why, hint="choose another importance")
    return torch.autograd.grad(value, list(own.values()), allow_unused=True)


def _given(own: Iterable[str], found: Iterable[torch.Tensor | None]) -> Iterator[tuple[str, torch.Tensor]]:
    """Gradients by name, without those of parameters that the loss does not depend on."""
    for name, gradient in zip(own, found, strict=True):
        if gradient is not None:
            yield name, gradient


def loss_of(
    program: Program,
    batch: Batch,
    loss: str,
    tensors: Mapping[str, torch.Tensor],
    what: str,
    watches: Mapping[Node, Watch] | None = None,
) -> torch.Tensor:
    """The loss of a batch, with these parameters in place of the program's own, while values are watched.

    Raises:
        RecipeError: the batch has no labels, or the loss is no scalar.
        GraphError: the loss is not finite.
    """
    if batch.labels is None:
        hint = "give batches of (inputs, labels), or a dict with `labels`"
        raise RecipeError(f"{what} needs labels", where="data.calibration", hint=hint)
    outputs = run_watched(program, watches or {}, batch.args, batch.kwargs, tensors)
    value = find_loss(loss)(outputs, batch.labels)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        given = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise RecipeError(f"the loss {loss} must give a tensor of one number", where="loss", why=f"it gives {given}")
    if not bool(torch.isfinite(value).all()):
        raise GraphError(f"{what}: the loss {loss} is not finite", why=f"it is {value}")
    return value
