"""A small slice of each benchmark of integers by graphc alone: accuracy after them, memory of calibration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
pytest.importorskip("onnxruntime", reason="pip install 'graphc[onnx]'")

import graphc
from benchmarks import calibration
from benchmarks.quality import fashion, fashion_mnist_int8


@pytest.mark.parametrize("way", ["float32", "static", "qat"])
def test_integers_on_fashion_mnist(way: str) -> None:
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    torch.manual_seed(0)
    x = torch.randn(256, 1, 28, 28)
    program = graphc.capture(fashion.ResNet(8).eval(), (x[:4].clone(),), dynamic={"x": {0: "batch"}})
    test = (x, program(x).argmax(1))
    found = fashion_mnist_int8.outcome(fashion_mnist_int8.Cell("whole", way, 2, 0), program, x, test)
    assert found.products == 16
    assert found.integer == (0 if way == "float32" else 16)
    assert found.accuracy > (0.999 if way == "float32" else 0.8)


def test_what_integers_may_cost() -> None:
    def found(static: float, qat: float) -> dict[fashion_mnist_int8.Cell, fashion_mnist_int8.Outcome]:
        drops = {"float32": [0.0], "static": [static, static + 0.001], "qat": [qat, qat]}
        return {
            fashion_mnist_int8.Cell(net, way, 0, seed): fashion_mnist_int8.Outcome(0.9 - drop, 10, 16, 16, 1.0)
            for net in fashion_mnist_int8.NETS
            for way, seeds in drops.items()
            for seed, drop in enumerate(seeds)
        }

    assert list(fashion_mnist_int8.claims(found(0.0025, 0.001)).values()) == [True] * 4
    assert list(fashion_mnist_int8.claims(found(0.003, 0.0012)).values()) == [False] * 4
    rows = fashion_mnist_int8.rows(found(0.002, -0.001))
    assert [row[4] for row in rows] == ["0.00", "0.25", "-0.10"] * 2


def test_memory_of_calibrating() -> None:
    options = calibration.options_of(
        ["--samples", "6", "--batch", "4", "--tokens", "12", "--layers", "1", "--width", "64"]
    )
    spent = calibration.measure_apart("entropy", options)
    assert isinstance(spent, calibration.Spent), spent
    assert spent.values == 5
    assert 0 < spent.before <= spent.peak < 2e9
    assert spent.processor > 0
    failed = "process ended with 1"
    said = calibration.claims({"percentile": replace(spent, peak=4 * 10**9), "entropy": spent, "mse": failed})
    assert list(said.values()) == [False, True, False]
    assert all(len(calibration.row("mse", one)) == len(calibration.COLUMNS) for one in (spent, failed))
