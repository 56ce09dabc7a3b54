"""A small residual network and scikit-learn's digits: 1,797 images of 8 x 8, shipped with it."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TRAIN = 1437
"""The first 80 %; the rest is for evaluation."""


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, width, height, width]`` to the same."""
        return (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()


class Net(nn.Module):
    """A stem, two blocks, a head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.block1 = Block(width)
        self.block2 = Block(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, 1, 8, 8]`` to logits ``[batch, 10]``."""
        x = self.norm(self.stem(x)).relu()
        return self.head(self.block2(self.block1(x)).mean((2, 3)))


def _images() -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.from_numpy(found.images).float()[:, None] / 8 - 1, torch.from_numpy(found.target)


def train_batches(batch: int = 64) -> DataLoader[tuple[Tensor, ...]]:
    """Shuffled batches for training."""
    x, y = _images()
    return DataLoader(TensorDataset(x[:TRAIN], y[:TRAIN]), batch, shuffle=True)


def first_half(batch: int = 64) -> DataLoader[tuple[Tensor, ...]]:
    """Half of the training images, shuffled: for weights, where a search trains the architecture on the other half."""
    x, y = _images()
    return DataLoader(TensorDataset(x[:TRAIN:2], y[:TRAIN:2]), batch, shuffle=True)


def second_half(batch: int = 64) -> DataLoader[tuple[Tensor, ...]]:
    """The other half."""
    x, y = _images()
    return DataLoader(TensorDataset(x[1:TRAIN:2], y[1:TRAIN:2]), batch, shuffle=True)


def eval_batches(batch: int = 180) -> DataLoader[tuple[Tensor, ...]]:
    """Batches for evaluation."""
    x, y = _images()
    return DataLoader(TensorDataset(x[TRAIN:], y[TRAIN:]), batch)


def trained(epochs: int = 10) -> nn.Module:
    """The network, trained for a few seconds."""
    torch.manual_seed(0)
    model = Net().train()
    batches = train_batches()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * len(batches))
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()
