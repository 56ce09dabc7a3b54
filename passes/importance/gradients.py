"""Criteria that need the gradient of a loss by the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphc.axes.axis import Axis
from graphc.coupling import Analysis

from ..calibration import Calibration, gradients
from .criterion import Parts, criterion
from .members import unit_sums


@criterion(needs_data=True)
def taylor(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """First-order estimate of what a unit's removal does to the loss, ``sum |w dL/dw|``.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning. The gradient is that of the mean
    loss over the calibration data, in evaluation mode. Torch-Pruning leaves norms and biases out.
    """
    found = gradients(analysis.program, calibration, "taylor").mean
    return {axis: unit_sums(analysis, axis, _taylor, found) for axis in axes}


@criterion(needs_data=True)
def fisher(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Second-order estimate, ``1/2 sum w^2 F`` with the diagonal of the empirical Fisher information.

    LeCun et al. 1990, Optimal Brain Damage, with the Hessian's diagonal approximated by ``F``, the mean over the
    batches of the squared gradient; exact for batches of one sample.
    """
    found = gradients(analysis.program, calibration, "fisher", squares=True).square
    return {axis: unit_sums(analysis, axis, _fisher, found) for axis in axes}


def _taylor(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    return (weight * gradient).abs()


def _fisher(weight: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    return weight.square() * square / 2
