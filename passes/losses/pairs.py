"""Pairs: values of student and teacher, made comparable: one precision, one shape, one row a position."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphc.errors import RecipeError
from graphc.pipeline.objective import channel_dim, precise

from .loss import Loss, Seen


@dataclass(frozen=True, kw_only=True)
class PositionLoss(Loss, abc.ABC):
    """A mean over positions: tokens that are not padding, or samples, with all that a sample has."""

    def count(self, labels: Any, mask: Tensor | None, samples: int) -> float:
        """Tokens that are not padding; samples where there is no mask."""
        return float(samples) if mask is None else float(mask.sum())


def fitting(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """The mask, if a value of this shape is ``[batch, tokens, channels]`` of its tokens; else None."""
    return mask if mask is not None and len(shape) == 3 and tuple(mask.shape) == tuple(shape[:2]) else None


def pair(seen: Seen, loss: Loss) -> tuple[Tensor, Tensor]:
    """The one value of each side, of the same batch.

    Raises:
        RecipeError: there is no teacher, or the batches differ.
    """
    if not seen.teacher:
        raise RecipeError(f"the loss {loss.type} needs a teacher", where=f"loss {loss.type}")
    student, teacher = seen.student[0], seen.teacher[0]
    if not student.dim() or student.shape[:1] != teacher.shape[:1]:
        raise no_pair(loss, student, teacher, "they are of different batches")
    return student, teacher


def precise_pair(seen: Seen, loss: Loss) -> tuple[Tensor, Tensor]:
    """As ``pair``, in float32 or better."""
    student, teacher = pair(seen, loss)
    return precise(student), precise(teacher)


def no_pair(loss: Loss, student: Tensor, teacher: Tensor, why: str, hint: str = "") -> RecipeError:
    """That two values cannot be compared, with their shapes."""
    shapes = f"the student's {list(student.shape)}, the teacher's {list(teacher.shape)}: {why}"
    return RecipeError(f"the loss {loss.type} cannot pair two values", where=f"loss {loss.type}", why=shapes, hint=hint)


def pooled(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``[batch, channels, height, width]`` averaged to the smaller height and width; others as they are."""
    if not student.dim() == teacher.dim() == 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    height, width = (min(student.shape[dim], teacher.shape[dim]) for dim in (2, 3))
    return F.adaptive_avg_pool2d(student, (height, width)), F.adaptive_avg_pool2d(teacher, (height, width))


def rows(student: Tensor, teacher: Tensor, mask: Tensor | None, loss: Loss) -> tuple[Tensor, Tensor]:
    """Both as ``[positions, channels]``: one row for each sample, token that is not padding, or pixel.

    Channels are dim 1 of four dims and more (maps), the last of two and three.

    Raises:
        RecipeError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise no_pair(loss, student, teacher, "they must be the same")
    mask = fitting(mask, student.shape)
    if mask is not None:
        return student[mask], teacher[mask]
    if student.dim() == 1:
        return student[:, None], teacher[:, None]
    dim = channel_dim(student)
    return student.movedim(dim, -1).flatten(0, -2), teacher.movedim(dim, -1).flatten(0, -2)


def average(values: Tensor) -> Tensor:
    """The mean of values; 0 if there are none."""
    return values.sum() / max(1, values.numel())


def unit(value: Tensor, dim: int) -> Tensor:
    """Vectors along a dim divided by their length; those of zeros stay so and have no gradient's explosion."""
    length: Tensor = torch.linalg.vector_norm(value, dim=dim, keepdim=True)
    return value / length.masked_fill(length == 0, 1)


def product(first: Tensor, second: Tensor) -> Tensor:
    """The matrix product, in the precision of its operands also where autocast would take less."""
    with torch.autocast(first.device.type, enabled=False):
        return first @ second
