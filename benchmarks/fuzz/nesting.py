"""Blocks that have other blocks in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.fuzz.blocks import Described, block, channels, grow, project, width_of


@block
class Residual(nn.Module):
    """``x + f(x)``, scaled or not; ``f`` gives back as many channels as it takes."""

    def __init__(self, x: Tensor, body: Sequence[Described], scale: str = "none") -> None:
        super().__init__()
        self.body = grow(body, x)
        self.close = project(self.body(x.clone()), width_of(x))
        self.scale = nn.Parameter(torch.ones(width_of(x))) if scale == "parameter" else None
        self.factor = 0.5 if scale == "number" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.close(self.body(x.clone())) * self.factor
        if self.scale is not None:
            y = y * (self.scale.view(-1, 1, 1) if x.ndim == 4 else self.scale)
        return x + y


@block
class Branches(nn.Module):
    """Several bodies over one value, joined."""

    def __init__(self, x: Tensor, bodies: Sequence[Sequence[Described]], join: str) -> None:
        super().__init__()
        self.bodies = nn.ModuleList([grow(body, x) for body in bodies])
        self.join = join
        given = [body(x.clone()) for body in self.bodies]
        width = width_of(given[0])
        fits = [nn.Identity() if join == "cat" or width_of(y) == width else project(y, width) for y in given]
        self.fits = nn.ModuleList(fits)

    def forward(self, x: Tensor) -> Tensor:
        given = [fit(body(x.clone())) for body, fit in zip(self.bodies, self.fits)]
        if self.join == "cat":
            return torch.cat(given, channels(x))
        if self.join == "stack":
            return torch.stack(given).mean(0)
        if self.join == "max":
            return torch.maximum(given[0], given[-1])
        result = given[0]
        for other in given[1:]:
            result = result * other.sigmoid() if self.join == "mul" else result + other
        return result


@block
class Shared(nn.Module):
    """One body applied several times."""

    def __init__(self, x: Tensor, body: Sequence[Described], times: int = 2) -> None:
        super().__init__()
        self.body, self.times = grow(body, x), times
        self.close = project(self.body(x.clone()), width_of(x))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.close(self.body(x.clone())).tanh()
        return x


@block
class Mixture(nn.Module):
    """Candidates weighted by a softmax, as a DARTS supernet has them."""

    def __init__(self, x: Tensor, bodies: Sequence[Sequence[Described]]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList([grow(body, x) for body in bodies])
        given = [body(x.clone()) for body in self.bodies]
        self.fits = nn.ModuleList([project(y, width_of(x)) for y in given])
        self.alphas = nn.Parameter(torch.randn(len(bodies)))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.alphas.softmax(0)
        parts = [fit(body(x.clone())) for body, fit in zip(self.bodies, self.fits)]
        return sum((weights[i] * part for i, part in enumerate(parts[1:], 1)), weights[0] * parts[0])
