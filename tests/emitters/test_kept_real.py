"""Layers that stay in real numbers beside integers keep their weights in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from graphc.passes import Quantize
from torch import Tensor, nn

import graphc
from tests.models import seeded


class Uneven(nn.Module):
    """Layers of every kind, the units of each with weights of very different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.larger = nn.ConvTranspose2d(8, 8, 2, 2)
        self.pooled = nn.Conv2d(8, 8, 1)
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        with torch.no_grad():
            for layer in (self.depthwise, self.larger, self.pooled, self.hidden):
                layer.weight.mul_(torch.logspace(-3, 0, 8).view(-1, *[1] * (layer.weight.dim() - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.larger(self.depthwise(self.first(x).relu()).relu())
        x = self.pooled(nn.functional.max_pool2d(x, 2)).relu()
        return self.head(self.hidden(x.mean((2, 3))).relu())


@pytest.mark.parametrize("left", [(), ("depthwise",), ("pooled", "hidden")])
def test_their_weights_are_not_rounded(left: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    done = graphc.compile(
        seeded(Uneven), (data[0],), passes=[Quantize(target="onnxruntime-cpu", ignore=left)], data={"calibration": data}
    ).program
    path = graphc.emit(done, tmp_path / "model.onnx").path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: data[1].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), done(data[1]).detach(), rtol=1e-4, atol=1e-5)
