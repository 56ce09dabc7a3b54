"""The small models of the explanation of axes; the page shows their source and draws their analysis."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What the pages show begins below this line.


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 24, 3, padding=1)
        self.second = nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.second(self.first(x).relu())
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 8, 1)
        self.right = nn.Conv2d(3, 12, 3, padding=1)
        self.last = nn.Conv2d(20, 5, 1)

    def forward(self, x):
        return self.last(torch.cat([self.left(x), self.right(x)], 1).relu())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(32, 24)
        self.key = nn.Linear(32, 24)
        self.value = nn.Linear(32, 24)
        self.out = nn.Linear(24, 32)

    def forward(self, x):
        batch, tokens, _ = x.shape
        wide = self.query(x), self.key(x), self.value(x)
        q, k, v = (y.view(batch, tokens, 4, 6).transpose(1, 2) for y in wide)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, 24))


class Reshape(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Linear(6 * 5 * 4, 10)

    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


EXAMPLES: dict[str, tuple[type[nn.Module], Tensor]] = {
    "residual": (Residual, torch.zeros(2, 3, 9, 7)),
    "concat": (Concat, torch.zeros(2, 3, 9, 7)),
    "attention": (Attention, torch.zeros(2, 7, 32)),
    "reshape": (Reshape, torch.zeros(2, 1, 5, 4)),
}
"""Models by name, each with an input."""
