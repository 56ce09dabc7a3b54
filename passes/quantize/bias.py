"""Bias correction: the mean error that rounding makes in what a layer gives is taken off its bias."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.fx import Node

from graphc.ir.edit import find, replace
from graphc.ir.graph import copy_graph
from graphc.ir.watch import Watch, run_watched

from ..calibration import Calibration
from .affine import Affine, affine
from .quantization import Quantization


@dataclass
class _Mean:
    """Of each unit of a value, over all of its other dims."""

    dim: int
    sum: torch.Tensor | float = 0.0
    count: int = 0

    def add(self, value: torch.Tensor) -> None:
        rows = value.double().movedim(self.dim, 0).flatten(1)
        self.sum, self.count = self.sum + rows.sum(1), self.count + rows.shape[1]

    def value(self) -> torch.Tensor:
        return torch.as_tensor(self.sum) / self.count


def correct_biases(quantization: Quantization, calibration: Calibration) -> Quantization:
    """Nagel et al. 2019, Data-Free Quantization: ``b -= E[y'] - E[y]`` of each layer that has a bias.

    ``y`` is what a layer gives in real numbers, ``y'`` what it gives for the same values with the weight that its
    integers stand for: so each layer answers for its own weight alone, and one run over the data does for all.
    """
    program = quantization.program
    tensors = program.tensors()
    means: dict[str, _Mean] = {}
    watches: dict[Node, Watch] = {}
    for product in quantization.products:
        layer = affine(program, find(program.graph, product.node.name))
        if layer is None or layer.bias is None or layer.bias.op != "get_attr" or len(layer.bias.users) > 1:
            continue
        found = quantization.rounded[product.weight].real().to(tensors[product.weight].dtype)
        error = (found - tensors[product.weight].detach()).permute(layer.order)
        means[str(layer.bias.target)] = mean = _Mean(layer.dim)
        watches[layer.node] = partial(_see, layer, error, mean)
    with torch.no_grad():
        for batch in calibration.batches(program, "bias correction"):
            run_watched(program, watches, batch.args, batch.kwargs)
    corrected = {name: _less(tensors[name], mean.value()) for name, mean in means.items()}
    return dataclasses.replace(quantization, program=replace(program, copy_graph(program.graph), corrected))


def _see(layer: Affine, error: torch.Tensor, mean: _Mean, args: Any, kwargs: Any, value: torch.Tensor) -> None:
    """What the layer gives with the error of its weight in place of the weight."""
    changed = list(args)
    changed[layer.form.weight] = error
    assert layer.form.bias is not None
    changed[layer.form.bias] = torch.zeros_like(args[layer.form.bias])
    mean.add(layer.node.target(*changed, **kwargs))  # type: ignore[operator] # an op


def _less(bias: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter((bias.detach().double() - mean).to(bias.dtype), bias.requires_grad)
