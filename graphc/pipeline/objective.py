"""Objectives: losses of a program's outputs against labels, by name or as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from graphc.errors import GraphError, RecipeError, nearest
from graphc.pipeline.targets import guarded

Loss = Callable[[Any, Any], torch.Tensor]
"""Outputs and labels of a batch to a scalar: the mean over the batch."""

IGNORED = -100
"""The label of what does not count: padding, prompts, pixels without a class."""


def logits(outputs: Any) -> torch.Tensor:
    """The first floating-point tensor of the outputs."""
    for value in pytree.tree_leaves(outputs):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
    raise GraphError("the program gives no floating-point output", where="loss")


def precise(value: torch.Tensor) -> torch.Tensor:
    """The value in float32 if its type has fewer bits: sums of exponentials need them."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def channel_dim(value: torch.Tensor) -> int:
    """Where classes or channels are: dim 1 of four dims and more (maps), the last of fewer."""
    return 1 if value.dim() > 3 else value.dim() - 1


def class_dim(found: torch.Tensor, labels: torch.Tensor) -> int:
    """Where the classes of logits are that have such labels; see ``rows``.

    Raises:
        RecipeError: the shapes do not fit, or labels are no tensor.
    """
    _is_tensor(labels)
    usual = channel_dim(found)
    if labels.is_floating_point():
        if labels.shape == found.shape and found.dim() > 1:
            return usual
        raise _unfit(found, labels, "classes are integers; probabilities have the shape of the outputs")
    for dim in (usual, 1, found.dim() - 1):
        if 0 < dim < found.dim() and labels.shape == (*found.shape[:dim], *found.shape[dim + 1 :]):
            return dim
    raise _unfit(found, labels)


def rows(found: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``[n, classes]`` and their labels: ``[n]`` integers, or ``[n, classes]`` probabilities.

    Logits are ``[batch, classes]``, ``[batch, tokens, classes]`` or ``[batch, classes, height, width]`` (maps);
    labels have the shape without the classes, or are probabilities of the logits' shape. Where the shapes of
    integer labels fit only so, classes may also be dim 1 of three dims, or the last of four.

    Raises:
        RecipeError: the shapes do not fit, labels are no tensor, or one is of no class.
    """
    dim = class_dim(found, labels)
    matrix = found.movedim(dim, -1).flatten(0, -2)
    if labels.is_floating_point():
        return matrix, labels.movedim(dim, -1).flatten(0, -2).to(found.dtype)
    classes = labels.flatten().long()
    beyond = classes[(classes != IGNORED) & ((classes < 0) | (classes >= matrix.shape[1]))]
    if len(beyond):
        why = f"the outputs have {matrix.shape[1]} classes, numbered from 0; {IGNORED} does not count"
        raise RecipeError(f"a label is {int(beyond[0])}", where="data", why=why)
    return matrix, classes


def counted(labels: torch.Tensor) -> torch.Tensor:
    """How many labels count, a scalar: all but those of -100; of probabilities, all."""
    if labels.is_floating_point():
        return torch.tensor(labels.numel() // labels.shape[channel_dim(labels)], device=labels.device)
    return (labels != IGNORED).sum()


def cross_entropy(outputs: Any, labels: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Mean cross-entropy of logits, ``-log softmax(z)[y]``; labels of -100 do not count, and it is 0 if none counts.

    For the shapes see ``rows``.

    Raises:
        RecipeError: the shapes do not fit.
    """
    found, targets = rows(precise(logits(outputs)), labels)
    total = F.cross_entropy(found, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
    return total / counted(labels).clamp(min=1)


def mse(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the first output against labels of its shape.

    Raises:
        RecipeError: the shapes do not fit.
    """
    found = precise(logits(outputs))
    _is_tensor(labels)
    if labels.shape != found.shape:
        raise _unfit(found, labels)
    return F.mse_loss(found, labels.to(found.dtype))


def _is_tensor(labels: Any) -> None:
    if not isinstance(labels, torch.Tensor):
        why = f"they are a {type(labels).__name__}" if labels is not None else "there are none"
        raise RecipeError("labels must be a tensor", where="data", why=why, hint="give batches of (inputs, labels)")


def _unfit(found: torch.Tensor, labels: torch.Tensor, hint: str = "") -> RecipeError:
    why = f"labels of shape {list(labels.shape)} do not go with outputs of shape {list(found.shape)}"
    return RecipeError("labels do not fit the outputs", where="data", why=why, hint=hint)


LOSSES: Mapping[str, Loss] = {"cross-entropy": cross_entropy, "mse": mse}


def find_loss(name: str) -> Loss:
    """A loss by its name, or by ``package.module:callable``, called with outputs and labels.

    Raises:
        RecipeError: there is none.
    """
    if ":" in name:
        return guarded(name, "loss")
    if name not in LOSSES:
        hint = f"{nearest(name, LOSSES)}; or write package.module:callable"
        raise RecipeError(f"no loss is called {name!r}", where="loss", hint=hint)
    return LOSSES[name]
