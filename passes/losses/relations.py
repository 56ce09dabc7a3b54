"""Losses that compare how the samples of a batch lie to each other, whatever the widths of the features.

They depend on the batch as a whole: means of two halves are not the mean of the whole, which knows relations
across the halves. Features ``[batch, ...]`` are taken as one vector a sample; of tokens, as their mean
without padding where there is a mask that fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .loss import Loss, OfFeatures, Seen
from .pairs import fitting, no_pair, precise_pair, product, unit


@dataclass(frozen=True, kw_only=True)
class RkdDistance(OfFeatures):
    """Relational distillation by distances (Park et al. 2019): smooth L1 of ``|f_i - f_j| / mu`` of both.

    mu is the mean of the distances of a network that are not zero, so the scales of features do not
    matter. The mean is over the pairs ``i != j`` of the batch, on which it depends as a whole; the
    authors' code counts ``i = j`` too. They give it the weight 25.
    """

    type: ClassVar[str] = "rkd-distance"

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over pairs.

        Raises:
            RecipeError: there is one sample only.
        """
        student, teacher = (_distances(value) for value in _vectors(seen, self, 2))
        n = len(student)
        return F.smooth_l1_loss(student, teacher, reduction="sum") / (n * (n - 1))


@dataclass(frozen=True, kw_only=True)
class RkdAngle(OfFeatures):
    """Relational distillation by angles (Park et al. 2019): smooth L1 of ``e_ij . e_kj`` of both.

    ``e_ij = (f_i - f_j) / |f_i - f_j|``: the cosine of the angle at j of each triplet. The mean is over
    triplets of distinct samples of the batch, on which it depends as a whole; the authors' code divides
    by ``batch^3``. They give it the weight 50. Memory is ``batch^2 (batch + width)``.
    """

    type: ClassVar[str] = "rkd-angle"

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over triplets; those with one sample twice differ in nothing.

        Raises:
            RecipeError: there are less than three samples.
        """
        student, teacher = (_angles(value) for value in _vectors(seen, self, 3))
        n = len(student)
        return F.smooth_l1_loss(student, teacher, reduction="sum") / (n * (n - 1) * (n - 2))


@dataclass(frozen=True, kw_only=True)
class Similarity(OfFeatures):
    """Similarity-preserving distillation (Tung and Mori 2019): ``|G_t - G_s|_F^2 / batch^2``.

    ``G`` is ``F F^T`` of the features ``F [batch, width]``, each row divided by its L2 norm. It depends on
    the batch as a whole.
    """

    type: ClassVar[str] = "similarity"

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over pairs.

        Raises:
            RecipeError: there is one sample only.
        """
        student, teacher = (unit(product(value, value.T), 1) for value in _vectors(seen, self, 2))
        return (student - teacher).square().mean()


def _vectors(seen: Seen, loss: Loss, least: int) -> tuple[Tensor, Tensor]:
    """Features of both as ``[batch, width]``."""
    student, teacher = precise_pair(seen, loss)
    if len(student) < least:
        hint = "take larger batches, and drop the last where it is smaller"
        raise no_pair(loss, student, teacher, f"it needs {least} samples or more in a batch", hint)
    return _flat(student, seen.mask), _flat(teacher, seen.mask)


def _flat(value: Tensor, mask: Tensor | None) -> Tensor:
    mask = fitting(mask, value.shape)
    if mask is None:
        return value.reshape(len(value), -1)
    return value.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _distances(value: Tensor) -> Tensor:
    """Distances of all pairs, ``[batch, batch]``, divided by the mean of those that are not zero."""
    found = torch.cdist(value, value, compute_mode="donot_use_mm_for_euclid_dist")
    mean = found.sum() / (found > 0).sum().clamp(min=1)
    return found / mean.masked_fill(mean == 0, 1)


def _angles(value: Tensor) -> Tensor:
    """Cosines of the angles at j, ``[batch (j), batch (i), batch (k)]``."""
    edges = unit(value[None] - value[:, None], 2)
    return product(edges, edges.transpose(1, 2))
