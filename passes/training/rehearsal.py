"""Rehearsal: one step before training, on a first batch, in which everything that cannot go shows itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from graphc.errors import GraphError, RecipeError
from graphc.pipeline.batches import Batch
from graphc.pipeline.seeds import seed_all

from .feed import Feed
from .stage import Stage
from .teacher import Teach


def rehearse(
    stage: Stage,
    teach: Teach,
    feed: Feed,
    statistics: Mapping[str, tuple[Tensor, Tensor]],
    own: Mapping[str, Tensor],
    frozen: Collection[str],
    title: str,
) -> list[str]:
    """One step on the first batch that changes nothing: makes projections, finds what no loss depends on.

    Such parameters, and frozen ones, take no gradients from then on.

    Args:
        stage: the student with its losses.
        teach: gives the teacher's values.
        feed: has the batch.
        statistics: running statistics that the step would move, in training mode, and where they are read.
        own: the tensors being trained, by name.
        frozen: names of parameters that are not to be trained.
        title: of the pass, for errors.

    Returns:
        Names of the parameters that no loss depends on.

    Raises:
        GraphError: a batch does not fit, labels are missing, values cannot be compared, or nothing is left to train.
    """
    batch = next(feed.epoch(0))
    check_labels(stage, batch, title)
    for name in frozen:
        own[name].requires_grad_(False)
    kept = [(trained, trained.clone()) for trained, _ in statistics.values()]
    seed_all(feed.seed)
    teachings = teach(batch)
    with torch.no_grad():
        stage.fit(batch, stage.read(batch), teachings)
    values = stage(batch, teachings, [0.0 if term.lesson else 1.0 for term in stage.terms])
    if not values.requires_grad:
        raise GraphError("no loss depends on a parameter that is trained", where=f"pass {title}")
    values.sum().backward()
    with torch.no_grad():
        for trained, before in kept:
            trained.copy_(before)
    unused = [n for n, p in own.items() if isinstance(p, Parameter) and p.requires_grad and p.grad is None]
    for name in unused:
        own[name].requires_grad_(False)
    for parameter in stage.parameters():
        parameter.grad = None
    return unused


def check_labels(stage: Stage, batch: Batch, title: str) -> None:
    """There are labels where a loss reads them.

    Raises:
        RecipeError: there are none.
    """
    for term in stage.terms:
        if term.loss.needs_labels and batch.labels is None:
            hint = "give batches of (inputs, labels) or a dict with `labels`, or leave the loss out"
            raise RecipeError(f"the loss {term.name} needs labels", where=f"data of {title}", hint=hint)
