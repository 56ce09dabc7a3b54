"""SmoothQuant: outliers in the channels of a value become weights of the layers that read it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from graphc.errors import GraphError, nearest
from graphc.ir.edit import find
from graphc.ir.program import Program
from graphc.ir.watch import run_watched

from ..affine import constant
from ..calibration import Calibration
from .factors import NoSeamError
from .multiply import Multiplier, free_readers, with_multipliers
from .seam import Seam
from .seams import Seams, layer_inputs

LEAST = 1e-5
"""The smallest factor."""


def channel_maxima(program: Program, calibration: Calibration, values: Collection[str]) -> dict[str, torch.Tensor]:
    """Of values that layers read the largest absolute entry of each channel over the calibration data.

    Args:
        program: stays as it is.
        calibration: inputs; one batch is looked at after the other, and only maxima are kept.
        values: names of nodes that convolutions or linear layers read.

    Returns:
        ``[channels]`` for each value.

    Raises:
        RecipeError: there is no data, or it does not fit.
        GraphError: a value is read by no layer, or has entries that are not finite.
    """
    dims = layer_inputs(program)
    found: dict[str, torch.Tensor] = {}
    watches: dict[Node, Callable[..., None]] = {}
    for name in values:
        node = find(program.graph, name)
        if node not in dims:
            raise GraphError(f"{name} has no channels", why="no convolution or linear layer reads it")
        watches[node] = partial(_see, found, name, dims[node])
    with torch.no_grad():
        for batch in calibration.batches(program, "smoothing"):
            run_watched(program, watches, batch.args, batch.kwargs)
    return found


def _see(found: dict[str, torch.Tensor], name: str, dim: int, args: Any, kwargs: Any, value: torch.Tensor) -> None:
    largest = value.abs().amax([i for i in range(value.dim()) if i != dim]).float()
    if not bool(torch.isfinite(largest).all()):
        channel = int((~torch.isfinite(largest)).nonzero()[0])
        raise GraphError(
            f"{name} is not finite on the calibration data", why=f"channel {channel} has {largest[channel]}"
        )
    found[name] = torch.maximum(found[name], largest) if name in found else largest


def smooth(program: Program, maxima: Mapping[str, torch.Tensor], strength: float, multiply: bool = True) -> Program:
    """The same function, with the channels of values brought closer to each other, at the cost of weights.

    Channel ``j`` of a value is divided, and the weights of all layers that read it are multiplied, by
    ``s_j = max|X_j|^strength / max|W_j|^(1 - strength)`` (Xiao et al. 2023, SmoothQuant), by 1 where
    either is 0, and by at least 1e-5. The division is done in the weights that make the value, if there is a seam.

    Args:
        program: stays as it is.
        maxima: largest absolute entries by channel, ``[channels]``, of values that layers read, by name
            (``channel_maxima``). Values that are not named stay as they are.
        strength: 0 evens out the weights, 1 the values; the paper takes 0.5 and up to 0.9.
        multiply: where no seam is, divide by an op of its own before the layers that have their weights for themselves.

    Raises:
        GraphError: a name is no value that layers read, or maxima do not fit it; ``strength`` is not from 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise GraphError("cannot smooth", why=f"the strength is {strength}", hint="give a number from 0 to 1")
    _check(program, maxima)
    search, tensors, done = Seams(program), program.tensors(), set[str]()
    multipliers: list[Multiplier] = []
    for node in layer_inputs(program):
        if node.name not in maxima or node.name in done:
            continue
        largest = maxima[node.name]
        seam = _seam(search, node)
        if seam is not None:
            done |= seam.values
            tensors |= _smoothed(seam, tensors, largest, strength)
        elif multiply and (readers := free_readers(program, node)):
            weights = [a.column_maxima(constant(a.operand, tensors)) for a in readers.values()]
            factors = _factors(largest, torch.stack(weights).amax(0), strength)
            multipliers.append(Multiplier(node.name, tuple(readers), factors))
    return with_multipliers(program, multipliers, tensors)


def _smoothed(
    seam: Seam, tensors: Mapping[str, torch.Tensor], largest: torch.Tensor, strength: float
) -> dict[str, torch.Tensor]:
    """Tensors that change as a value of a seam is smoothed; none if no weight reads it."""
    weights = seam.weight_maxima(seam.consumers, tensors)
    return {} if weights is None else seam.apply(tensors, _factors(seam.shared(largest), weights, strength))


def _factors(values: torch.Tensor, weights: torch.Tensor, strength: float) -> torch.Tensor:
    values, weights = values.double(), weights.double().to(values.device)
    factors = values.pow(strength) / weights.pow(1 - strength)
    return torch.where((values > 0) & (weights > 0), factors.clamp(min=LEAST), 1)


def _seam(search: Seams, node: Node) -> Seam | None:
    try:
        return search.at(node.name, layer_inputs(search.program)[node])
    except NoSeamError:
        return None


def _check(program: Program, maxima: Mapping[str, torch.Tensor]) -> None:
    channels = {node.name: node.meta["val"].shape[dim] for node, dim in layer_inputs(program).items()}
    for name, largest in maxima.items():
        if name not in channels:
            raise GraphError(f"cannot smooth {name}", why="no layer reads it", hint=nearest(name, channels))
        if largest.shape != (channels[name],) or not bool((torch.isfinite(largest) & (largest >= 0)).all()):
            why = f"its maxima are {list(largest.shape)}, and must be {channels[name]} finite numbers from 0 on"
            raise GraphError(f"cannot smooth {name}", why=why)
