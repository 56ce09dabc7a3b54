"""A criterion for heads that needs the attention weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, leaves
from graphc.coupling import Analysis
from graphc.ir.watch import run_watched

from ..calibration import Calibration
from .criterion import Parts, criterion
from .reading import Meter, along

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)


@criterion(needs_data=True)
def attention_variance(analysis: Analysis, axes: Sequence[Axis], calibration: Calibration) -> Parts:
    """Variance of a head's attention weights over samples, queries and keys.

    A head that spreads its attention evenly, or always in one way, has little. The weights are taken from the
    softmax of the graph, or computed from what a fused attention is given; no model has to output them.
    """
    places = list(_places(analysis, axes))
    meters = {(node, axis): (Meter(axis.size), Meter(axis.size)) for node, axis, _ in places}

    def see(node: Node, args: Any, kwargs: Any, value: torch.Tensor) -> None:
        weights = _weights(*args, **kwargs) if node.target is FUSED else value
        for at, axis, dim in places:
            if at is node:
                expression = analysis.values[node.all_input_nodes[0]][dim]
                for meter, values in zip(meters[node, axis], (weights, weights.double().square()), strict=True):
                    meter.add(along(values, dim, expression, axis), values.numel() // axis.size)

    watches = {node: partial(see, node) for node, _, _ in places}
    with torch.no_grad():
        for batch in calibration.batches(analysis.program, "attention_variance"):
            run_watched(analysis.program, watches, batch.args, batch.kwargs)
    parts: dict[Axis, list[torch.Tensor]] = {axis: [] for axis in axes}
    for (_, axis), (mean, square) in meters.items():
        parts[axis].append((square.mean - mean.mean.square()).clamp(min=0))
    return parts


def _places(analysis: Analysis, axes: Sequence[Axis]) -> Iterator[tuple[Node, Axis, int]]:
    """Attention weights and the heads in them: all dims but those of queries and keys."""
    for node in analysis.program.graph.nodes:
        if node.target is FUSED or node.target in SOFTMAX:
            layout = analysis.values[node.all_input_nodes[0]]
            for dim, expression in enumerate(layout[:-2]):
                for axis in leaves(expression) if expression is not None else ():
                    if axis in axes:
                        yield node, axis, dim


def repeat_heads(key: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values ``[..., groups, tokens, size]``, each repeated for the heads of ``query`` that share it."""
    return key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)


def _weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention weights ``[..., heads, queries, keys]`` of ``scaled_dot_product_attention``."""
    if enable_gqa:
        key = repeat_heads(key, query)
    logits = query @ key.transpose(-1, -2) * (scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    if causal:
        logits = logits.masked_fill(
            ~torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril(), -math.inf
        )
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1)
