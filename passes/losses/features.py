"""Losses that compare features inside the networks, position by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .loss import OfFeatures, Seen
from .pairs import PositionLoss, average, pooled, precise_pair, rows, unit


@dataclass(frozen=True, kw_only=True)
class Hint(PositionLoss, OfFeatures):
    """FitNets (Romero et al. 2015): the mean of ``(r(s) - t)^2``, where r brings the student to the teacher's width.

    Features are ``[batch, channels]``, ``[batch, tokens, channels]`` or ``[batch, channels, height, width]``;
    the larger of two maps is averaged to the size of the smaller. The mean is over channels and over
    samples, tokens that are not padding, or pixels. The paper halves and sums.
    """

    type: ClassVar[str] = "hint"
    fits: ClassVar[bool] = True

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over positions and channels.

        Raises:
            RecipeError: the shapes differ by more than height and width.
        """
        student, teacher = rows(*pooled(*precise_pair(seen, self)), seen.mask, self)
        return average((student - teacher).square())


@dataclass(frozen=True, kw_only=True)
class Cosine(PositionLoss, OfFeatures):
    """DistilBERT (Sanh et al. 2019): the mean of ``1 - cos(s, t)`` of the vectors at each position.

    Vectors lie along dim 1 of maps ``[batch, channels, height, width]``, and along the last dim otherwise.
    Positions are those of hint, sizes are brought together likewise. A vector of zeros has the cosine 0.
    """

    type: ClassVar[str] = "cosine"
    fits: ClassVar[bool] = True

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over positions.

        Raises:
            RecipeError: the shapes differ by more than height and width.
        """
        student, teacher = rows(*pooled(*precise_pair(seen, self)), seen.mask, self)
        return average(1 - (unit(student, 1) * unit(teacher, 1)).sum(1))
