"""Blocks that read tokens ``[batch, tokens, channels]`` or vectors ``[batch, channels]``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fuzz.blocks import block


def fitting(width: int, heads: int) -> int:
    """The most heads, up to a number, that divide a width."""
    return next(number for number in range(heads, 0, -1) if width % number == 0)


@block
class Attention(nn.Module):
    """Self-attention, with fused or separate projections, with fewer keys than queries, fused or written out."""

    def __init__(
        self,
        x: Tensor,
        heads: int,
        size: int,
        shared: int = 1,
        kind: str = "sdpa",
        fused: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        width = x.shape[-1]
        self.heads, self.size, self.kind, self.causal = heads, size, kind, causal
        self.keys = heads // shared if heads % shared == 0 else heads
        self.fused = fused and self.keys == heads
        if self.fused:
            self.qkv = nn.Linear(width, 3 * heads * size)
        else:
            self.query = nn.Linear(width, heads * size)
            self.key = nn.Linear(width, self.keys * size, bias=False)
            self.value = nn.Linear(width, self.keys * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.qkv(x).chunk(3, -1) if self.fused else (self.query(x), self.key(x), self.value(x))
        q, k, v = (
            y.unflatten(-1, (n, self.size)).transpose(1, 2)
            for y, n in zip(projected, (self.heads, self.keys, self.keys))
        )
        if self.keys != self.heads:
            k, v = (y.repeat_interleave(self.heads // self.keys, 1) for y in (k, v))
        if self.kind == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
            if self.causal:
                length = x.shape[1]
                later = torch.ones(length, length, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@block
class MultiHead(nn.Module):
    """Torch's own attention layer."""

    def __init__(self, x: Tensor, heads: int) -> None:
        super().__init__()
        heads = fitting(x.shape[-1], heads)
        self.attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@block
class Encoder(nn.Module):
    """A stack of torch's own encoder layers."""

    def __init__(self, x: Tensor, heads: int, hidden: int, layers: int, first: bool) -> None:
        super().__init__()
        heads = fitting(x.shape[-1], heads)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(x.shape[-1], heads, hidden, 0.0, batch_first=True, norm_first=first)
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@block
class Stack(nn.Module):
    """Equal residual layers, one after the other."""

    def __init__(self, x: Tensor, hidden: int, layers: int) -> None:
        super().__init__()
        width = x.shape[-1]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


@block
class Positions(nn.Module):
    """A learned vector for each place."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.3 * torch.randn(max(16, 2 * x.shape[1]), x.shape[2]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.positions[: x.shape[1]]


@block
class ClassToken(nn.Module):
    """A learned token before all others."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, x.shape[2]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


@block
class TokenConv(nn.Module):
    """A convolution along the tokens."""

    def __init__(self, x: Tensor, width: int, groups: str = "dense") -> None:
        super().__init__()
        inputs = x.shape[2]
        out, parts = (inputs, inputs) if groups == "depthwise" else (width, 1)
        self.conv = nn.Conv1d(inputs, out, 3, padding=1, groups=parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


@block
class Mix(nn.Module):
    """A linear layer across tokens of a fixed number."""

    def __init__(self, x: Tensor, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(x.shape[1], hidden), nn.Linear(hidden, x.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x.transpose(1, 2)))).transpose(1, 2)


@block
class Recurrent(nn.Module):
    """An LSTM or a GRU."""

    def __init__(self, x: Tensor, width: int, kind: str) -> None:
        super().__init__()
        self.net = (nn.LSTM if kind == "lstm" else nn.GRU)(x.shape[2], width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


@block
class Read(nn.Module):
    """Tokens become one vector."""

    def __init__(self, x: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.score = nn.Linear(x.shape[2], 1) if kind == "weighted" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.score is not None:
            return (self.score(x).softmax(1) * x).sum(1)
        if self.kind == "mean":
            return x.mean(1)
        if self.kind == "max":
            return x.amax(1)
        return x[:, 0] if self.kind == "first" else x[:, -1]


@block
class Picture(nn.Module):
    """A vector becomes an image."""

    def __init__(self, x: Tensor, width: int) -> None:
        super().__init__()
        self.width, self.layer = width, nn.Linear(x.shape[1], width * 4 * 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).view(-1, self.width, 4, 4)
