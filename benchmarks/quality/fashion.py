"""Fashion-MNIST and a residual network for it."""

from __future__ import annotations

import gzip
import struct
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

PACKAGE = "apt-get install dataset-fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
MEAN, DEVIATION = 0.2860, 0.3530
"""Of the training images' pixels, from 0 to 1."""

Images = tuple[Tensor, Tensor]
"""``[n, 1, 28, 28]`` normalised, and labels ``[n]``."""


def read(folder: Path, kind: str) -> Images:
    """The official images of a kind: ``train`` (60,000) or ``t10k`` (10,000)."""
    pixels = _idx(folder / f"{kind}-images-idx3-ubyte.gz").astype(np.float32) / 255
    labels = _idx(folder / f"{kind}-labels-idx1-ubyte.gz").astype(np.int64)
    return (torch.from_numpy(pixels)[:, None] - MEAN) / DEVIATION, torch.from_numpy(labels)


def _idx(path: Path) -> np.ndarray:
    with gzip.open(path) as file:
        content = file.read()
    dims = content[3]
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


class Block(nn.Module):
    """Two convolutions around which the input goes, through a convolution where the shape changes."""

    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inner, h, w]`` to ``[n, width, h / stride, w / stride]``."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-14 for small images (He et al. 2016): three stages of two blocks, 175 k parameters."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        sizes = [(width, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        sizes += [(2 * width, 4 * width, 2), (4 * width, 4 * width, 1)]
        self.blocks = nn.Sequential(*(Block(*size) for size in sizes))
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[n, 1, 28, 28]`` to logits ``[n, 10]``."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Batches:
    """Batches of 128 in a new order each time, shifted by up to two pixels, mirrored half of the time.

    Attributes:
        images: what is left over after the last whole batch is left out.
        generator: draws the order, and one shift a batch; by default torch's own.
    """

    images: Images
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return len(self.images[0]) // 128

    def __iter__(self) -> Iterator[Images]:
        x, y = self.images
        order = torch.randperm(len(x), generator=self.generator)
        for picked in order[: 128 * len(self)].split(128):
            yield self._augmented(x[picked]), y[picked]

    def _augmented(self, x: Tensor) -> Tensor:
        dx, dy = (int(v) for v in torch.randint(-2, 3, (2,), generator=self.generator))
        mirrored = torch.rand(len(x), generator=self.generator) < 0.5
        return torch.where(mirrored[:, None, None, None], x.flip(3), x).roll((dx, dy), (2, 3))


def train(
    model: Model, parameters: Iterator[nn.Parameter], images: Images, epochs: int, rate: float, seed: int
) -> float:
    """SGD with momentum and a cosine schedule; gives the seconds of the processor."""
    batches = Batches(images, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    start = time.process_time()
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return time.process_time() - start


def accuracy(model: Model, images: Images) -> float:
    """Share of the images that the greatest logit is right about."""
    x, y = images
    with torch.no_grad():
        return float(torch.cat([model(part).argmax(1) for part in x.split(500)]).eq(y).double().mean())


def teacher(path: Path, folder: Path, epochs: int, console: Console) -> float:
    """Train the network, unless the file is there; its accuracy on the test images."""
    if not path.exists():
        torch.manual_seed(0)
        model = ResNet().train()
        console.print(f"training the network, {epochs} epochs")
        train(model, model.parameters(), read(folder, "train"), epochs, 0.1, 0)
        temporary = path.with_suffix(".part")
        torch.save(model.state_dict(), temporary)
        temporary.replace(path)
    return accuracy(load(path), read(folder, "t10k"))


def load(path: Path) -> ResNet:
    """The trained network."""
    model = ResNet()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def arguments(doc: str | None) -> ArgumentParser:
    """Options of every benchmark on these images."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the four .gz files")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    return parser


def given(parser: ArgumentParser) -> Namespace:
    """The options on the command line, once the data is found; makes the folder for results."""
    options = parser.parse_args()
    if not (options.data / "train-images-idx3-ubyte.gz").exists():
        parser.error(f"the data is not in {options.data}: {PACKAGE}")
    options.out.mkdir(parents=True, exist_ok=True)
    return options
