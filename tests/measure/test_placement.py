"""What onnxruntime makes of files that its own quantizer wrote, with ops that it can and cannot run in integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from graphc.errors import GraphError
from graphc.measure.placement import Placement, placement, why_not_faster


class Convolutions(nn.Module):
    """A transposed convolution among things that have kernels for integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.up, self.head = nn.ConvTranspose2d(16, 8, 2, 2), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x) + x)
        return self.head(F.relu(self.up(x)).mean((2, 3)))


class Linears(nn.Module):
    """Two linear layers around a GELU, and a product of two values."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.norm = nn.Linear(32, 64), nn.Linear(64, 32), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.narrow(F.gelu(self.wide(x))))
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


class Random(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        name, random = onnx.load(path).graph.input[0].name, np.random.default_rng(0)
        self.batches: Iterator[Any] = iter([{name: random.standard_normal(shape, np.float32)} for _ in range(3)])

    def get_next(self) -> Any:
        return next(self.batches, None)


IMAGES, TOKENS = (3, 3, 16, 17), (3, 7, 32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("plain")
    nets = {"convolutions": (Convolutions(), IMAGES), "linears": (Linears(), TOKENS)}
    for name, (net, shape) in nets.items():
        graphc.emit(graphc.capture(net.eval(), (torch.randn(shape),)), folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in nets}


def static(source: Path, shape: tuple[int, ...], activations: QuantType, folder: Path) -> Placement:
    target, data = folder / "static.onnx", Random(source, shape)
    kinds = {"activation_type": activations, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(source, target, data, **kinds)
    return placement(target)


def test_convolutions_in_integers_but_a_transposed_one(plain: dict[str, Path], tmp_path: Path) -> None:
    found = static(plain["convolutions"], IMAGES, QuantType.QUInt8, tmp_path)
    assert [name.split()[0] for name in found.integer] == ["QLinearConv", "QLinearConv", "QGemm"]
    assert [name.split()[0] for name in found.floating] == ["ConvTranspose"]
    assert found.ops["com.microsoft.QLinearAdd"] == 1
    assert any("up.weight" in name and "before ConvTranspose" in name for name in found.unfused)
    stays, unfused = why_not_faster(found)
    assert stays.startswith("1 of 4 products stay in float: ConvTranspose ")
    assert unfused.startswith(f"{len(found.unfused)} roundings are not fused")


def test_signed_values_are_not_fused(plain: dict[str, Path], tmp_path: Path) -> None:
    good, bad = (static(plain["convolutions"], IMAGES, kind, tmp_path) for kind in (QuantType.QUInt8, QuantType.QInt8))
    assert len(bad.floating) > len(good.floating)
    assert len(bad.unfused) > len(good.unfused)
    assert f"and {len(bad.unfused) - 4} more" in why_not_faster(bad)[1]


def test_linear_layers_static_and_dynamic(plain: dict[str, Path], tmp_path: Path) -> None:
    found = static(plain["linears"], TOKENS, QuantType.QUInt8, tmp_path)
    assert (len(found.integer), found.floating) == (4, ())
    assert all("before LayerNormalization" in name for name in found.unfused)
    quantize_dynamic(plain["linears"], tmp_path / "dynamic.onnx", weight_type=QuantType.QInt8)
    dynamic = placement(tmp_path / "dynamic.onnx")
    assert [name.split()[0] for name in dynamic.integer] == ["DynamicQuantizeMatMul"] * 2
    assert [name.split()[0] for name in dynamic.floating] == ["FusedMatMul", "MatMul"]
    assert dynamic.unfused == ()
    assert len(why_not_faster(dynamic)) == 1


def test_a_file_of_floats(plain: dict[str, Path]) -> None:
    found = placement(plain["linears"])
    assert (found.integer, len(found.floating), found.unfused) == ((), 4, ())
    assert why_not_faster(found)[0].startswith("4 of 4 products stay in float")
    assert {path.name for path in plain["linears"].parent.iterdir()} == {"convolutions.onnx", "linears.onnx"}


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="does not exist"):
        placement(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphError, match="cannot run this file"):
        placement(tmp_path / "broken.onnx")
