"""Criteria that need the values of an axis where they are read; memory does not grow with the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis
from graphc.coupling import Analysis
from graphc.ir.watch import run_watched

from ..calibration import Calibration, derivatives, loss_of, trainable
from .criterion import Parts, criterion
from .reading import Meter, along, readings

Meters = Mapping[Node, Sequence[tuple[Axis, int, Meter]]]


@criterion(needs_data=True)
def activation(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Mean absolute activation, ``mean |a|``, where a unit is read (Muralidharan et al. 2024, Minitron).

    For heads this is the output of attention and for the hidden size that of the norms, as in the paper; for
    the width of an MLP it is what its last layer reads, after the activation function and the gate.
    """
    meters = _meters(analysis, axes)

    def see(node: Node, args: Any, kwargs: Any, value: torch.Tensor) -> None:
        for axis, dim, meter in meters[node]:
            meter.add(along(value.abs(), dim, analysis.values[node][dim], axis), value.numel() // axis.size)

    watches = {node: partial(see, node) for node in meters}
    with torch.no_grad():
        for batch in calibration.batches(analysis.program, "activation"):
            run_watched(analysis.program, watches, batch.args, batch.kwargs)
    return _parts(axes, meters)


@criterion(needs_data=True)
def gate(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Gradient of the loss by a gate on each unit, ``mean over samples |sum a dL/da|``, where a unit is read.

    For heads this is ``|Att^T dL/dAtt|`` of Michel et al. 2019, Are Sixteen Heads Really Better than One?; for
    filters the criterion of Molchanov et al. 2017, Pruning CNNs for Resource Efficient Inference.
    """
    meters = _meters(analysis, axes)
    own = trainable(analysis.program)
    size = 1

    def see(node: Node, args: Any, kwargs: Any, value: torch.Tensor) -> None:
        def back(gradient: torch.Tensor) -> None:
            product = (value.detach() * gradient).double()
            for axis, dim, meter in meters[node]:
                sums = along(product, dim, analysis.values[node][dim], axis, keep=True)
                meter.add(sums.abs().sum(0) * size, len(sums))

        if value.requires_grad:
            value.register_hook(back)  # type: ignore[no-untyped-call] # torch

    watches = {node: partial(see, node) for node in meters}
    for batch in calibration.batches(analysis.program, "gate"):
        size = batch.size
        value = loss_of(analysis.program, batch, calibration.loss, own, "gate", watches)
        derivatives(value, own, "gate")
    return _parts(axes, meters)


def _meters(analysis: Analysis, axes: Sequence[Axis]) -> Meters:
    places = readings(analysis, axes)
    return {node: [(axis, dim, Meter(axis.size)) for axis, dim in found] for node, found in places.items()}


def _parts(axes: Sequence[Axis], meters: Meters) -> Parts:
    parts: dict[Axis, list[torch.Tensor]] = {axis: [] for axis in axes}
    for found in meters.values():
        for axis, _, meter in found:
            parts[axis].append(meter.mean)
    return parts
