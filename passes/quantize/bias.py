"""Bias correction: the mean error that rounding makes in what a layer gives is taken off its bias."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

import torch

from graphc.ir.edit import find, replace
from graphc.ir.graph import copy_graph
from graphc.ir.watch import Seen, walk
from graphc.pipeline.batches import Batch

from ..affine import Affine, affine
from .quantization import Quantization

Walk = Generator[Seen, Any, None]


def correct_biases(quantization: Quantization, batches: Sequence[Batch]) -> Quantization:
    """Nagel et al. 2019, Data-Free Quantization, appendix D: ``b -= E[y'] - E[y]`` of each layer that has a bias.

    ``y`` is what a layer gives in real numbers, ``y'`` what it gives in the quantised program after all layers
    before it were corrected. Both programs run over the data side by side, once, layer by layer.

    Args:
        quantization: what is decided.
        batches: all are in work at once: of each the values that are still needed are held.
    """
    program = quantization.program
    tensors = program.tensors()
    layers = [affine(program, find(program.graph, product.node.name)) for product in quantization.products]
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    own = sorted((layer for layer in layers if layer is not None and _has_own_bias(layer)), key=lambda a: order[a.node])
    corrected: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        real, whole = ([walk(p, b.args, b.kwargs) for b in batches] for p in (program, quantization.simulated()))
        changed: list[torch.Tensor | None] = [None] * len(batches)
        for layer in own:
            wanted = _mean([_until(run, layer) for run in real], layer.dim)
            given = [_until(run, layer, value) for run, value in zip(whole, changed, strict=True)]
            error = _mean(given, layer.dim) - wanted
            changed = [value - _along(error, layer.dim, value) for value in given]
            name = str(layer.bias.target)  # type: ignore[union-attr] # it has one
            corrected[name] = torch.nn.Parameter(tensors[name].detach() - error.to(tensors[name].dtype))
    return dataclasses.replace(quantization, program=replace(program, copy_graph(program.graph), corrected))


def _has_own_bias(layer: Affine) -> bool:
    return layer.bias is not None and layer.bias.op == "get_attr" and len(layer.bias.users) == 1


def _until(run: Walk, layer: Affine, instead: torch.Tensor | None = None) -> torch.Tensor:
    """What a layer gives in a walk that goes on with another value in place of the last one."""
    seen = run.send(instead) if instead is not None else next(run)
    while seen.node.name != layer.node.name:
        seen = next(run)
    value: torch.Tensor = seen.value
    return value


def _mean(values: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """Of each unit over everything else, ``[units]``, in double precision."""
    rows = [value.double().movedim(dim, 0).flatten(1) for value in values]
    return torch.stack([row.sum(1) for row in rows]).sum(0) / sum(row.shape[1] for row in rows)


def _along(error: torch.Tensor, dim: int, value: torch.Tensor) -> torch.Tensor:
    """What each unit has, as it broadcasts to a value."""
    shape = [1] * value.dim()
    shape[dim] = -1
    return error.to(value.dtype).view(shape)
