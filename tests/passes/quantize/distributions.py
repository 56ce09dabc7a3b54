"""Values of the shapes that activations have."""

from __future__ import annotations

import torch

SIZE = 100_003


def draw(name: str, size: int = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    normal, uniform = torch.randn(size, generator=generator), torch.rand(size, generator=generator)
    return {
        "normal": lambda: normal,
        "heavy": lambda: normal / uniform.sqrt(),
        "relu": lambda: normal.relu() * 3,
        "negative": lambda: -normal.exp() - 1,
        "bimodal": lambda: torch.where(uniform < 0.3, normal * 0.1 - 4, normal * 0.5 + 1),
        "gelu": lambda: torch.nn.functional.gelu(normal * 3),
        "outliers": lambda: torch.where(uniform < 1e-4, normal.sign() * 40, normal),
    }[name]()


NAMES = ("normal", "heavy", "relu", "negative", "bimodal", "gelu", "outliers")
