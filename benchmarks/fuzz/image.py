"""Blocks that read images ``[batch, channels, height, width]``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fuzz.blocks import block


def groups_of(kind: str, width: int, out: int) -> int:
    """How many groups: one, as many as divide both, or one for each channel."""
    return {"dense": 1, "grouped": math.gcd(math.gcd(width, out), 4), "depthwise": width}[kind]


@block
class Conv(nn.Module):
    """A convolution: dense, grouped, or depthwise with so many filters a channel."""

    def __init__(
        self,
        x: Tensor,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: str = "dense",
        bias: bool = True,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        inputs = x.shape[1]
        out = inputs * (1 + width % 2) if groups == "depthwise" else width
        small = min(x.shape[2:]) < 3
        around = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            inputs,
            out,
            1 if small else kernel,
            stride,
            0 if small else around,
            1 if small else dilation,
            groups_of(groups, inputs, out),
            bias,
            padding if around < min(x.shape[2:]) and not small else "zeros",
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@block
class Transposed(nn.Module):
    """A transposed convolution, which doubles the size or keeps it."""

    def __init__(self, x: Tensor, width: int, groups: str = "dense", double: bool = True) -> None:
        super().__init__()
        inputs = x.shape[1]
        out = inputs if groups == "depthwise" else width
        kernel, stride, padding = (2, 2, 0) if double else (3, 1, 1)
        self.conv = nn.ConvTranspose2d(
            inputs, out, kernel, stride, padding, groups=groups_of(groups, inputs, out), bias=width % 2 == 0
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@block
class Pool(nn.Module):
    """A pooling that halves the size, or keeps it."""

    def __init__(self, x: Tensor, kind: str, halve: bool = False) -> None:
        super().__init__()
        self.kind, self.halve = kind, halve and min(x.shape[2:]) >= 2

    def forward(self, x: Tensor) -> Tensor:
        options = {"kernel_size": 2, "stride": 2} if self.halve else {"kernel_size": 3, "stride": 1, "padding": 1}
        return F.max_pool2d(x, **options) if self.kind == "max" else F.avg_pool2d(x, **options)


@block
class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, x: Tensor, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(x.shape[1], hidden, 1), nn.Conv2d(hidden, x.shape[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


@block
class Resize(nn.Module):
    """Pixels moved into channels and back, interpolation, padding."""

    def __init__(self, x: Tensor, kind: str) -> None:
        super().__init__()
        even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        fits = {"shuffle": x.shape[1] % 4 == 0, "unshuffle": even}
        self.kind = kind if fits.get(kind, True) else "pad"

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "shuffle":
            return F.pixel_shuffle(x, 2)
        if self.kind == "unshuffle":
            return F.pixel_unshuffle(x, 2)
        if self.kind == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        if self.kind == "bilinear":
            return F.interpolate(x, size=(6, 6), mode="bilinear", align_corners=False)
        return F.pad(x, (1, 0, 0, 1))


@block
class ToTokens(nn.Module):
    """Each place a token."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


@block
class Gather(nn.Module):
    """All places become one vector."""

    def __init__(self, x: Tensor, kind: str) -> None:
        super().__init__()
        self.kind, self.entries = kind, x.shape[1] * x.shape[2] * x.shape[3]

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mean":
            return x.mean((2, 3))
        if self.kind == "max":
            return x.amax((2, 3))
        if self.kind == "adaptive":
            return torch.flatten(F.adaptive_avg_pool2d(x, (2, 2)), 1)
        if self.kind == "literal":
            return x.reshape(-1, self.entries)
        return x.flatten(1)
