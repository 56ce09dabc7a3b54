"""Criteria that need nothing but the weights."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from graphc.axes.axis import Axis
from graphc.coupling import Analysis

from ..calibration import Calibration
from .criterion import Parts, criterion
from .members import Elementwise, by_unit, parameters, unit_sums


@criterion(by_tensor=True)
def l1(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Sum of absolute weights, ``sum |w|`` (Li et al. 2017, Pruning Filters for Efficient ConvNets).

    Every parameter counts that has the axis: weights that make a unit and weights that read it, norms, biases.
    """
    return _sums(analysis, axes, torch.Tensor.abs)


@criterion(finish=torch.sqrt, by_tensor=True)
def l2(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Euclidean norm of all weights of a unit, ``sqrt(sum w^2)`` (group norm; Fang et al. 2023, DepGraph).

    Torch-Pruning leaves out the root: the order within an axis is the same, a global ranking is not.
    """
    return _sums(analysis, axes, torch.Tensor.square)


def _lamp(scores: torch.Tensor) -> torch.Tensor:
    ordered, order = scores.sort(descending=True, stable=True)
    shares = torch.where(ordered > 0, ordered / ordered.cumsum(0), 0)
    return torch.empty_like(scores).scatter_(0, order, shares)


@criterion(finish=_lamp, normalization="none", by_tensor=True)
def lamp(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Squared norm over that of all units at least as large (Lee et al. 2021, Layer-Adaptive Sparsity).

    ``s_u / sum of s_v with s_v >= s_u``, where ``s`` is the sum of a unit's squared weights; the paper scores
    single weights, Torch-Pruning and this criterion units. Comparable between axes as it is.
    """
    return _sums(analysis, axes, torch.Tensor.square)


@criterion(by_tensor=True)
def bn_scale(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Absolute scale of batch norms, ``|gamma|`` (Liu et al. 2017, Network Slimming)."""
    scales = {
        str(node.args[1].target)
        for node in analysis.program.graph.nodes
        if node.target is torch.ops.aten.batch_norm.default and node.args[1] is not None
    }
    return {
        axis: [
            by_unit(analysis, axis, name, dim, value).abs().double().sum((0, 2)).cpu()
            for name, dim, value in parameters(analysis, axis)
            if name in scales
        ]
        for axis in axes
    }


@criterion()
def fpgm(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Sum of distances to all other units, ``sum_v ||w_u - w_v||`` (He et al. 2019, Geometric Median).

    The units nearest to all others can be replaced by them. Weights of layers count (those that make the units
    and those that read them), norms and biases do not. Torch-Pruning takes the distance of ``|w|^p``.
    """
    parts: dict[Axis, list[torch.Tensor]] = {}
    for axis in axes:
        parts[axis] = []
        for name, dim, value in parameters(analysis, axis):
            if value.dim() > 1:
                rows = by_unit(analysis, axis, name, dim, value).transpose(0, 1).flatten(1).double()
                parts[axis].append(torch.cdist(rows, rows).sum(1).cpu())  # in float32 it loses three digits
    return parts


@criterion(by_tensor=True)
def random(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Uniform random numbers from 0 to 1, the same for a seed and an axis's name: what other criteria must beat."""
    parts: dict[Axis, list[torch.Tensor]] = {}
    for axis in axes:
        generator = torch.Generator().manual_seed(calibration.seed + zlib.crc32(axis.name.encode()))
        parts[axis] = [torch.rand(axis.size, generator=generator, dtype=torch.float64)]
    return parts


def _sums(analysis: Analysis, axes: Sequence[Axis], entry: Elementwise) -> Parts:
    """Sums of an elementwise function; what constants alone have counts nothing."""
    return {axis: unit_sums(analysis, axis, entry) or [torch.zeros(axis.size, dtype=torch.float64)] for axis in axes}
