"""The search space of DARTS for images (Liu et al. 2019): a network whose every edge mixes eight operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidates of every edge, in the order of a row of the architecture parameters."""

Gene = list[tuple[str, int]]


class Genotype(NamedTuple):
    """What was found: for every node of a cell its operations, each with the state that it reads."""

    normal: Gene
    normal_concat: range
    reduce: Gene
    reduce_concat: range


def norm(width: int) -> nn.Module:
    """Without a scale and shift: these would compete with the weights of the mixture."""
    return nn.BatchNorm2d(width, affine=False)


class Zero(nn.Module):
    """No connection: zeros in the shape of the edge's output."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to zeros, smaller by the stride."""
        return (x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]) * 0.0


class FactorizedReduce(nn.Module):
    """Half the resolution: two pointwise convolutions, one shifted by a pixel, side by side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, inputs, 2h, 2w]`` to ``[batch, outputs, h, w]``."""
        x = x.relu()
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


def relu_conv(inputs: int, outputs: int) -> nn.Sequential:
    """What brings a cell's inputs to its width."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), norm(outputs))


def depthwise(width: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """ReLU, a depthwise and a pointwise convolution, batch norm."""
    padding = dilation * (kernel - 1) // 2
    spatial = nn.Conv2d(width, width, kernel, stride, padding, dilation, groups=width, bias=False)
    return [nn.ReLU(), spatial, nn.Conv2d(width, width, 1, bias=False), norm(width)]


def sep_conv(width: int, kernel: int, stride: int) -> nn.Module:
    """Separable convolution, applied twice."""
    return nn.Sequential(*depthwise(width, kernel, stride), *depthwise(width, kernel, 1))


def dil_conv(width: int, kernel: int, stride: int) -> nn.Module:
    """Dilated separable convolution."""
    return nn.Sequential(*depthwise(width, kernel, stride, dilation=2))


def skip(width: int, stride: int) -> nn.Module:
    """The state itself, or a factorised reduction of it."""
    return nn.Identity() if stride == 1 else FactorizedReduce(width, width)


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda width, stride: Zero(stride),
    "max_pool_3x3": lambda width, stride: nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(width)),
    "avg_pool_3x3": lambda width, stride: nn.Sequential(
        nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm(width)
    ),
    "skip_connect": skip,
    "sep_conv_3x3": lambda width, stride: sep_conv(width, 3, stride),
    "sep_conv_5x5": lambda width, stride: sep_conv(width, 5, stride),
    "dil_conv_3x3": lambda width, stride: dil_conv(width, 3, stride),
    "dil_conv_5x5": lambda width, stride: dil_conv(width, 5, stride),
}
"""Each primitive, made for a width and a stride."""


class MixedOp(nn.Module):
    """An edge: all candidates, weighted."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(OPERATIONS[name](width, stride) for name in PRIMITIVES)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """A state and one weight a candidate to their weighted sum."""
        return sum(weight * candidate(x) for weight, candidate in zip(weights, self.candidates))  # type: ignore[return-value]


class Cell(nn.Module):
    """Two inputs, ``steps`` nodes that each sum an edge from every state before, and the last nodes side by side."""

    def __init__(
        self, steps: int, multiplier: int, before: int, previous: int, width: int, reduction: bool, reduced: bool
    ) -> None:
        super().__init__()
        self.steps, self.multiplier = steps, multiplier
        self.first = FactorizedReduce(before, width) if reduced else relu_conv(before, width)
        self.second = relu_conv(previous, width)
        self.edges = nn.ModuleList(
            MixedOp(width, 2 if reduction and state < 2 else 1) for node in range(steps) for state in range(2 + node)
        )

    def forward(self, before: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        """Outputs of the two cells before, weights ``[edges, candidates]``: to ``[batch, multiplier * width, ..]``."""
        states = [self.first(before), self.second(previous)]
        first = 0
        for _ in range(self.steps):
            rows = range(first, first + len(states))
            first += len(states)
            states.append(sum(self.edges[row](state, weights[row]) for row, state in zip(rows, states)))
        return torch.cat(states[-self.multiplier :], dim=1)


class Network(nn.Module):
    """A stem, cells of which two reduce, a classifier; one table of architecture parameters for each kind of cell.

    Args:
        width: channels of the first cells (C).
        classes: outputs.
        layers: cells; those at one and two thirds halve the resolution and double the width.
        steps: nodes of a cell.
        multiplier: how many of the last nodes are a cell's output.
        stem_multiplier: channels of the stem, as a multiple of ``width``.
        channels: of the images.
    """

    def __init__(
        self,
        width: int = 16,
        classes: int = 10,
        layers: int = 8,
        steps: int = 4,
        multiplier: int = 4,
        stem_multiplier: int = 3,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.steps, self.multiplier = steps, multiplier
        stem = stem_multiplier * width
        self.stem = nn.Sequential(nn.Conv2d(channels, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem))
        self.cells = nn.ModuleList()
        self.reductions = [i in (layers // 3, 2 * layers // 3) for i in range(layers)]
        before, previous, reduced = stem, stem, False
        for reduction in self.reductions:
            width *= 2 if reduction else 1
            self.cells.append(Cell(steps, multiplier, before, previous, width, reduction, reduced))
            before, previous, reduced = previous, multiplier * width, reduction
        self.classifier = nn.Linear(previous, classes)
        edges = sum(2 + node for node in range(steps))
        self.alphas_normal = nn.Parameter(1e-3 * torch.randn(edges, len(PRIMITIVES)))
        self.alphas_reduce = nn.Parameter(1e-3 * torch.randn(edges, len(PRIMITIVES)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        before = previous = self.stem(x)
        for cell, reduction in zip(self.cells, self.reductions):
            weights = (self.alphas_reduce if reduction else self.alphas_normal).softmax(dim=-1)
            before, previous = previous, cell(before, previous, weights)
        return self.classifier(previous.mean((2, 3)))

    def genotype(self) -> Genotype:
        """Of every edge the best operation that is not none, of every node the two best edges."""
        concat = range(2 + self.steps - self.multiplier, 2 + self.steps)
        tables = [alphas.detach().softmax(dim=-1).tolist() for alphas in (self.alphas_normal, self.alphas_reduce)]
        normal, reduce = (self._genes(table) for table in tables)
        return Genotype(normal, concat, reduce, concat)

    def _genes(self, table: Sequence[Sequence[float]]) -> Gene:
        genes: Gene = []
        for node in range(self.steps):
            rows, table = table[: 2 + node], table[2 + node :]
            best = [max((k for k in range(len(row)) if PRIMITIVES[k] != "none"), key=row.__getitem__) for row in rows]
            order = sorted(range(len(rows)), key=lambda state: -rows[state][best[state]])
            genes += [(PRIMITIVES[best[state]], state) for state in order[:2]]
        return genes
