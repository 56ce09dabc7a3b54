"""Importance of whole layers: one function a criterion, found by its name."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from graphc.coupling import Analysis
from graphc.coupling.regions import Layer
from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.ir.watch import run_watched

from .calibration import Calibration, gradients
from .importance.members import PIECE
from .importance.reading import Meter

LayerCriterion = Callable[[Analysis, Sequence[Layer], Calibration], list[float]]


def l1(analysis: Analysis, layers: Sequence[Layer], calibration: Calibration) -> list[float]:
    """Mean absolute weight of a layer, ``mean |w|``."""
    return [_mean(analysis.program, layer, torch.Tensor.abs) for layer in layers]


def l2(analysis: Analysis, layers: Sequence[Layer], calibration: Calibration) -> list[float]:
    """Root mean square of a layer's weights, ``sqrt(mean w^2)``."""
    return [math.sqrt(_mean(analysis.program, layer, torch.Tensor.square)) for layer in layers]


def taylor(analysis: Analysis, layers: Sequence[Layer], calibration: Calibration) -> list[float]:
    """Mean of gradient times weight over a layer's parameters, ``mean |w dL/dw|`` (Molchanov et al. 2019)."""
    found = gradients(analysis.program, calibration, "taylor").mean
    return [_mean(analysis.program, layer, lambda w, g: (w * g).abs(), found) for layer in layers]


def block_influence(analysis: Analysis, layers: Sequence[Layer], calibration: Calibration) -> list[float]:
    """How much a layer turns what passes through it, ``1 - mean cos(in, out)`` (Men et al. 2024, ShortGPT).

    The cosine is along the channels or the hidden size, its mean over samples and positions.
    """
    meters = {layer.name: Meter(1) for layer in layers}
    kept: dict[Node, torch.Tensor] = {}
    ends: dict[Node, list[Layer]] = defaultdict(list)
    for layer in layers:
        if layer.entry is layer.exit:
            why = "it takes no value of the shape that it gives"
            hint = "choose another importance"
            raise GraphError(f"block_influence says nothing of {layer.name}", why=why, hint=hint)
        ends[layer.exit].append(layer)
    starts = {layer.entry for layer in layers}

    def see(node: Node, args: Any, kwargs: Any, value: torch.Tensor) -> None:
        for layer in ends.get(node, ()):
            dim = _features(analysis, layer.exit)
            cosine = torch.cosine_similarity(kept[layer.entry].double(), value.double(), dim)
            meters[layer.name].add((1 - cosine).sum()[None], cosine.numel())
        if node in starts:
            kept[node] = value

    watches = {node: partial(see, node) for node in {*starts, *ends}}
    with torch.no_grad():
        for batch in calibration.batches(analysis.program, "block_influence"):
            kept.clear()
            run_watched(analysis.program, watches, batch.args, batch.kwargs)
    return [float(meters[layer.name].mean) for layer in layers]


LAYER_CRITERIA: Mapping[str, LayerCriterion] = {c.__name__: c for c in (l1, l2, taylor, block_influence)}
NEED_DATA = ("taylor", "block_influence")


def _features(analysis: Analysis, node: Node) -> int:
    """The dim of a value that parameters have too: channels, hidden size."""
    layout = analysis.values[node]
    return next(
        (i for i, axis in enumerate(layout) if axis is not None and axis.root().kind == "leaf" and axis.root().members),
        len(layout) - 1,
    )


def _mean(
    program: Program, layer: Layer, entry: Callable[..., torch.Tensor], *sources: Mapping[str, torch.Tensor]
) -> float:
    """The mean of an elementwise function over all parameters of a layer."""
    tensors = program.tensors()
    names = [name for name in layer.tensors if isinstance(tensors[name], torch.nn.Parameter)]
    total = sum(_total(entry, [tensors[name], *(source[name] for source in sources)]) for name in names)
    return total / max(1, sum(tensors[n].numel() for n in names))


def _total(entry: Callable[..., torch.Tensor], values: Sequence[torch.Tensor]) -> float:
    """The sum of an elementwise function, in pieces: what is computed on the way is in double precision."""
    pieces = zip(*(torch.split(value.detach().reshape(-1), PIECE) for value in values), strict=True)
    return sum(float(entry(*(part.double() for part in piece)).sum()) for piece in pieces)
