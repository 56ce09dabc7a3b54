"""Blocks of any rank: each sizes itself by a sample of what it will read, so that any description makes a net.

Channels are dim 1 of images ``[batch, channels, height, width]``, and the last of everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Described = Mapping[str, Any]
"""A block: ``{"op": name, **options}``."""

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu_": lambda x: F.relu(x, inplace=True),
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "abs": torch.abs,
    "square": torch.square,
    "exp": lambda x: torch.exp(x.clamp(max=2)),
}
BLOCKS: dict[str, type[nn.Module]] = {}


def block(kind: type[nn.Module]) -> type[nn.Module]:
    """Make a block known by the name of its class in small letters."""
    BLOCKS[kind.__name__.lower()] = kind
    return kind


def width_of(x: Tensor) -> int:
    """How many channels."""
    return x.shape[1] if x.ndim == 4 else x.shape[-1]


def channels(x: Tensor) -> int:
    """Which dim they are."""
    return 1 if x.ndim == 4 else x.ndim - 1


def grow(described: Sequence[Described], x: Tensor) -> nn.Sequential:
    """The blocks of a description, each sized by what the ones before give for a sample."""
    made: list[nn.Module] = []
    for one in described:
        options = {name: value for name, value in one.items() if name != "op"}
        made.append(BLOCKS[one["op"]](x, **options).eval())
        x = made[-1](x.clone())
    return nn.Sequential(*made)


def project(x: Tensor, width: int, bias: bool = True) -> nn.Module:
    """The channels of each place to another number of them."""
    if x.ndim == 4:
        return nn.Conv2d(width_of(x), width, 1, bias=bias)
    return nn.Linear(width_of(x), width, bias=bias)


@block
class Dense(nn.Module):
    """A linear layer, or a 1 x 1 convolution."""

    def __init__(self, x: Tensor, width: int, bias: bool = True) -> None:
        super().__init__()
        self.layer = project(x, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@block
class Act(nn.Module):
    """An activation."""

    def __init__(self, x: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "prelu":
            self.prelu = nn.PReLU(width_of(x) if x.ndim != 3 else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(x) if self.kind == "prelu" else ACTIVATIONS[self.kind](x)


@block
class Norm(nn.Module):
    """A norm over the batch, groups, or channels."""

    def __init__(self, x: Tensor, kind: str) -> None:
        super().__init__()
        width = width_of(x)
        self.kind = kind
        if kind == "batch":
            self.norm: nn.Module = nn.BatchNorm2d(width) if x.ndim == 4 else nn.BatchNorm1d(width)
        elif kind == "group" and x.ndim == 4:
            self.norm = nn.GroupNorm(2 if width % 2 == 0 else 1, width)
        elif kind == "instance" and x.ndim == 4 and x.shape[2] * x.shape[3] > 1:
            self.norm = nn.InstanceNorm2d(width, affine=True)
        else:
            self.norm = nn.RMSNorm(width, eps=1e-5) if kind == "rms" else nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        last = isinstance(self.norm, (nn.LayerNorm, nn.RMSNorm))
        if x.ndim == 4:
            return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if last else self.norm(x)
        if x.ndim == 3 and not last:
            return self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.norm(x)


@block
class Split(nn.Module):
    """Channels cut into parts, which are put together in another way."""

    def __init__(self, x: Tensor, how: str, join: str) -> None:
        super().__init__()
        self.how, self.join, self.width = how, join, width_of(x)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.parts(x, channels(x))
        if self.join == "cat":
            return torch.cat([second, first], channels(x))
        if self.join == "add":
            return first + second
        if self.join == "first":
            return first
        return first * second.sigmoid()

    def parts(self, x: Tensor, dim: int) -> Sequence[Tensor]:
        """Two parts; of one size where the join needs it."""
        half = self.width // 2
        if half == 0:
            return x, x
        if self.how == "chunk" and self.width % 2 == 0:
            return x.chunk(2, dim)
        if self.how == "uneven" and self.join in ("cat", "first"):
            return x.split([1 + half // 2, self.width - 1 - half // 2], dim)
        if self.how == "unflatten" and self.width % 2 == 0:
            return x.unflatten(dim, (2, half)).unbind(dim)
        if self.how == "split":
            return x.split([half, self.width - half], dim)[:2] if self.width % 2 == 0 else (x, x)
        return x.narrow(dim, 0, half), x.narrow(dim, self.width - half, half)


@block
class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.first, self.second = project(x, width_of(x)), project(x, width_of(x))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


@block
class Gated(nn.Module):
    """An MLP with a gate, fused or not."""

    def __init__(self, x: Tensor, hidden: int, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.up = project(x, 2 * hidden if fused else hidden)
        self.gate = None if fused else project(x, hidden, bias=False)
        self.down = project(self.up(x).narrow(channels(x), 0, hidden), width_of(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            up, gate = self.up(x).chunk(2, channels(x))
        else:
            up, gate = self.up(x), self.gate(x)
        return self.down(up * F.silu(gate))


@block
class Shuffle(nn.Module):
    """Channels through a reshape into groups, a transpose and back."""

    def __init__(self, x: Tensor, groups: int) -> None:
        super().__init__()
        self.width = width_of(x)
        self.groups = groups if self.width % groups == 0 else 1

    def forward(self, x: Tensor) -> Tensor:
        dim = channels(x)
        y = x.unflatten(dim, (self.groups, self.width // self.groups)).transpose(dim, dim + 1)
        return y.flatten(dim, dim + 1)


@block
class Dropout(nn.Module):
    """Dropout."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)


@block
class Arithmetic(nn.Module):
    """Numbers and buffers that meet every entry."""

    def __init__(self, x: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("shift", torch.linspace(-1, 1, width_of(x)))

    def forward(self, x: Tensor) -> Tensor:
        shift = self.shift.view(-1, 1, 1) if x.ndim == 4 else self.shift
        if self.kind == "shift":
            return x - shift
        if self.kind == "clamp":
            return (2 * x + 1).clamp(-3, 3)
        if self.kind == "where":
            return torch.where(x > 0, x, 0.1 * x)
        return x / (x.abs().mean(channels(x), keepdim=True) + 1e-3)


@block
class Mlp(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, x: Tensor, hidden: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.up = project(x, hidden)
        self.down = project(self.up(x), width_of(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(ACTIVATIONS[self.kind](self.up(x)))
