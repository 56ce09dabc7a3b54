"""Formulas over plain numbers, written independently of torch's functions, and random values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + len(shape) + 31 * shape[-1])
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def softmax(values: Sequence[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(v / temperature) for v in values]
    return [p / sum(powers) for p in powers]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def norm(values: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in values))


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
