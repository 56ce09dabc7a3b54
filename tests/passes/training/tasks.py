"""Small tasks to train on: a net, a loader that draws its order, labels that can be learnt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import graphc
from graphc.pipeline.base import Context


class Classifier(nn.Module):
    """Two layers with a batch norm and dropout between; vectors of 6 to 3 classes."""

    def __init__(self, dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x)).relu()))


def classifier(dropout: float = 0.0, norm: bool = True) -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(Classifier(dropout, norm).eval(), (torch.randn(4, 6),))


def samples(count: int = 64) -> tuple[Tensor, Tensor]:
    """Vectors and the class that a fixed linear map gives them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=generator)
    return x, (x @ torch.randn(6, 3, generator=generator)).argmax(1)


def train_batches(batch: int = 8, count: int = 64) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*samples(count)), batch, shuffle=True)


def eval_batches() -> list[tuple[Tensor, Tensor]]:
    return [samples(64)]


def some_batches(count: int = 4) -> Iterator[Any]:
    """A generator: no length, and used up after one epoch unless it is made anew."""
    yield from zip(*(part.split(8) for part in samples(8 * count)), strict=True)


def context(program: graphc.Program, **more: Any) -> Context:
    return Context(program, data={"train": train_batches}, **more)
