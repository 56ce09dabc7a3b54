"""A small supernet with kernel matrices, squeeze branches and stages, and its sub-networks written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from tests import models


def rounded(value: float, by: int = 8) -> int:
    """A multiple of eight, as MobileNet rounds."""
    multiple = max(by, int(value + by / 2) // by * by)
    return multiple + by if multiple < 0.9 * value else multiple


class Elastic(nn.Module):
    """An inverted residual at its largest; its matrices for smaller kernels are not read by its own forward."""

    def __init__(self, width: int, out: int, stride: int = 1, matrices: bool = True, kernel: int = 7) -> None:
        super().__init__()
        hidden = 6 * width
        self.shortcut = stride == 1 and width == out
        self.up, self.up_norm = nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.spatial = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.spatial_norm = nn.BatchNorm2d(hidden)
        self.squeeze = nn.Conv2d(hidden, rounded(hidden // 4), 1)
        self.excite = nn.Conv2d(rounded(hidden // 4), hidden, 1)
        self.down, self.down_norm = nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)
        if matrices:
            for size in range(kernel - 2, 1, -2):
                self.register_parameter(f"to{size}", nn.Parameter(torch.zeros(size**2, size**2)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up_norm(self.up(x)).relu()
        y = self.spatial_norm(self.spatial(y)).relu()
        y = y * F.hardsigmoid(self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()))
        y = self.down_norm(self.down(y))
        return x + y if self.shortcut else y


class Supernet(nn.Module):
    """Two stages of three blocks; the first block of each changes the width."""

    def __init__(self, matrices: bool = True, kernel: int = 7) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        widths = [(8, 16, 2), (16, 16, 1), (16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 24, 1)]
        self.stages = nn.Sequential(*(Elastic(*w, matrices=matrices, kernel=kernel) for w in widths))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x).relu()).mean((2, 3)))


@dataclass(frozen=True)
class Chosen:
    """A sub-network: a kernel and an expand ratio for each block, a depth for each stage."""

    kernel: Sequence[int] = (7,) * 6
    expand: Sequence[float] = (6,) * 6
    depth: Sequence[int] = (3, 3)


CASES = {
    "kernels": Chosen(kernel=(5, 3, 7, 3, 5, 7)),
    "widths": Chosen(expand=(3, 4, 6, 2.5, 3, 4)),
    "depths": Chosen(depth=(1, 2)),
    "all": Chosen((3, 5, 7, 5, 3, 7), (4, 3, 6, 3, 4, 6), (2, 3)),
    "smallest": Chosen((3,) * 6, (3,) * 6, (1, 1)),
}


def supernet(matrices: bool = True, kernel: int = 7) -> Supernet:
    torch.manual_seed(0)
    net = models.randomise(Supernet(matrices, kernel)).eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if ".to" in name:
                value.copy_(torch.eye(len(value)) + 0.1 * torch.randn(value.shape))
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = None  # statistics of one batch, so that signals are as large after each block as before
            norm.reset_running_stats()
        net.train()(torch.randn(16, 3, 20, 22))
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 0.1
    return net.eval()  # type: ignore[return-value]


def captured(net: nn.Module) -> graphc.Program:
    torch.manual_seed(1)
    return graphc.capture(net, (torch.randn(3, 3, 20, 22),))


def filters(block: Elastic, size: int, channels: int) -> Tensor:
    """The kernel of a size: the middle of the next larger one, times the matrix of the size if there is one."""
    weight = block.spatial.weight[:channels]
    while weight.shape[-1] > size:
        weight = weight[:, :, 1:-1, 1:-1]
        matrix = getattr(block, f"to{weight.shape[-1]}", None)
        if matrix is not None:
            weight = (weight.flatten(1) @ matrix.T).view_as(weight)
    return weight


def norm(x: Tensor, of: nn.BatchNorm2d) -> Tensor:
    """The first channels of a batch norm."""
    first = [t[: x.shape[1]] for t in (of.running_mean, of.running_var, of.weight, of.bias)]  # type: ignore[index]
    return F.batch_norm(x, *first, eps=of.eps)


def by_hand(net: Supernet, chosen: Chosen, x: Tensor, took: Callable[..., None] = lambda *tensors: None) -> Tensor:
    """What the sub-network computes; ``took`` is given every tensor that it has."""
    x = net.stem(x).relu()
    took(*net.stem.parameters(), *net.head.parameters())
    for i, block in enumerate(net.stages):
        if i % 3 >= chosen.depth[i // 3]:
            continue
        assert isinstance(block, Elastic)
        mid = rounded(round(x.shape[1] * chosen.expand[i]))
        inner = rounded(mid // 4)
        up, spatial, down = block.up.weight[:mid], filters(block, chosen.kernel[i], mid), block.down.weight[:, :mid]
        y = norm(F.conv2d(x, up), block.up_norm).relu()
        y = F.conv2d(y, spatial, None, block.spatial.stride, chosen.kernel[i] // 2, groups=mid)
        y = norm(y, block.spatial_norm).relu()
        reduce = (block.squeeze.weight[:inner, :mid], block.squeeze.bias[:inner])  # type: ignore[index]
        expand = (block.excite.weight[:mid, :inner], block.excite.bias[:mid])  # type: ignore[index]
        gate = F.conv2d(F.conv2d(y.mean((2, 3), keepdim=True), *reduce).relu(), *expand)
        y = norm(F.conv2d(y * F.hardsigmoid(gate), down), block.down_norm)
        took(
            up,
            spatial,
            down,
            *reduce,
            *expand,
            *(t[:mid] for n in (block.up_norm, block.spatial_norm) for t in n.parameters()),
        )
        took(*block.down_norm.parameters())
        x = x + y if block.shortcut else y
    return net.head(x.mean((2, 3)))
