"""Objectives: losses and metrics of a program's outputs against labels, by name or as a target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.program import Program
from graphc.pipeline.batches import batches
from graphc.pipeline.targets import find_target

Loss = Callable[[Any, Any], torch.Tensor]
"""Outputs and labels of a batch to a scalar: the mean over the batch."""

Metric = Callable[[Program, Iterable[Any]], float]
"""A program and batches to a number; more is better."""


def logits(outputs: Any) -> torch.Tensor:
    """The first floating-point tensor of the outputs."""
    for value in pytree.tree_leaves(outputs):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
    raise GraphError("the program gives no floating-point output", where="loss")


def cross_entropy(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits, ``-log softmax(z)[y]``; labels of -100 do not count.

    Logits are ``[batch, classes]``, ``[batch, ..., classes]`` (tokens) or ``[batch, classes, height, width]``
    (maps); labels have the shape without the classes, or are probabilities of the logits' shape.
    """
    found = logits(outputs)
    if labels.is_floating_point() and labels.shape == found.shape:
        return F.cross_entropy(found.flatten(0, -2), labels.flatten(0, -2))
    if labels.shape == found.shape[:-1]:
        return F.cross_entropy(found.flatten(0, -2), labels.flatten().long())
    if labels.shape == (*found.shape[:1], *found.shape[2:]):
        return F.cross_entropy(found, labels.long())
    why = f"labels of shape {list(labels.shape)} do not go with outputs of shape {list(found.shape)}"
    raise RecipeError("the loss cross-entropy does not fit", where="loss", why=why)


def mse(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the first output against labels of its shape."""
    found = logits(outputs)
    if labels.shape != found.shape:
        why = f"labels of shape {list(labels.shape)} do not go with outputs of shape {list(found.shape)}"
        raise RecipeError("the loss mse does not fit", where="loss", why=why)
    return F.mse_loss(found, labels.to(found.dtype))


def accuracy(program: Program, loader: Iterable[Any]) -> float:
    """Share of labels, from 0 to 1, that the greatest logit hits; labels of -100 do not count."""
    right = total = 0
    with torch.no_grad():
        for batch in batches(program, loader):
            if batch.labels is None:
                raise RecipeError("accuracy needs labels", where="metric", hint="give batches of (inputs, labels)")
            found = logits(program(*batch.args, **batch.kwargs))
            maps = batch.labels.shape == (*found.shape[:1], *found.shape[2:]) != found.shape[:-1]
            guess = found.argmax(1 if maps else -1)
            counts = batch.labels != -100
            right += int(((guess == batch.labels) & counts).sum())
            total += int(counts.sum())
    return right / total


LOSSES: Mapping[str, Loss] = {"cross-entropy": cross_entropy, "mse": mse}
METRICS: Mapping[str, Metric] = {"accuracy": accuracy}


def find_loss(name: str) -> Loss:
    """A loss by its name, or by ``package.module:callable``, called with outputs and labels.

    Raises:
        RecipeError: there is none.
    """
    found: Loss = _find(name, LOSSES, "loss")
    return found


def find_metric(name: str) -> Metric:
    """A metric by its name, or by ``package.module:callable``, called with a program and its data.

    Raises:
        RecipeError: there is none.
    """
    found: Metric = _find(name, METRICS, "metric")
    return found


def _find(name: str, known: Mapping[str, Any], what: str) -> Any:
    if ":" in name:
        return find_target(name, what)
    if name not in known:
        hint = f"{nearest(name, known)}; or write package.module:callable"
        raise RecipeError(f"no {what} is called {name!r}", where=what, hint=hint)
    return known[name]
