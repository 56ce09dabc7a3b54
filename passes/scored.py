"""What all passes share that choose by importance: the criterion and the data that it looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from graphc.axes.axis import Axis
from graphc.coupling import Analysis
from graphc.pipeline.base import Context, Pass
from graphc.pipeline.objective import find_loss

from .calibration import Calibration
from .importance import find_criterion, score
from .options import DataName, Importance, LossName, Normalized, Reduced, Samples


@dataclass(frozen=True, kw_only=True)
class Scored(Pass):
    """A pass that scores what it may remove."""

    importance: Importance = "l2"
    reduction: Reduced = "sum"
    normalization: Normalized = None
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    loss: LossName = "cross-entropy"

    def __post_init__(self) -> None:
        """Check the options, and that criterion and loss exist."""
        super().__post_init__()
        find_criterion(self.importance)
        find_loss(self.loss)

    def by_importance(self) -> bool:
        """Does the pass choose by importance, and not by an explicit selection?"""
        return True

    def needs_data(self) -> Mapping[str, str]:
        """Calibration data, if the criterion looks at some."""
        if not (self.by_importance() and find_criterion(self.importance).needs_data):
            return {}
        return {self.calibration_data: f"importance: {self.importance}"}

    def calibration(self, context: Context) -> Calibration:
        """The data that the criterion looks at."""
        return Calibration.of(context, self.calibration_data, self.num_calibration_samples, self.loss)

    def scores(self, analysis: Analysis, axes: Sequence[Axis], context: Context) -> dict[Axis, torch.Tensor]:
        """Importance of each unit of some axes, comparable between them."""
        normalization = self.normalization or find_criterion(self.importance).normalization
        return score(analysis, axes, self.importance, self.calibration(context), self.reduction, normalization)
