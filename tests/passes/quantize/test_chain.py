"""Prune, distil and quantise in one recipe: the file has integers, ties stay, the order counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from graphc.passes import Distill, PruneFilters, PruneWidth, Quantize

import graphc
from graphc.errors import GraphError
from graphc.ir.quantized import is_quantised
from graphc.measure.placement import placement
from tests.models import tiny_gpt2

pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
torchvision = pytest.importorskip("torchvision", reason="pip install 'graphc[vision]'")

QAT = {"type": "qat", "calibration_data": "train"}
ENDS: dict[str, tuple[tuple[dict[str, Any], ...], list[graphc.Pass]]] = {
    "quantize": ((), [Quantize(calibration_data="train")]),
    "qat": ((QAT,), []),
}
"""How integers come about: hooks of distill, and passes after it."""


def taught(during: tuple[dict[str, Any], ...] = ()) -> Distill:
    """A few steps that move weights little."""
    return Distill(steps=3, learning_rate=1e-5, losses=({"type": "kl"},), during=during)


@pytest.fixture(scope="module")
def resnet() -> graphc.Program:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(8, 3, 32, 32))
    return graphc.capture(model.eval(), (torch.randn(4, 3, 32, 32),), dynamic={"x": {0: "batch"}})


def images() -> list[torch.Tensor]:
    return list(torch.randn(3, 8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def sqnr(wanted: torch.Tensor, found: torch.Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize("end", ENDS)
def test_resnet18_is_pruned_distilled_and_in_integers(resnet: graphc.Program, end: str, tmp_path: Path) -> None:
    during, last = ENDS[end]
    prune, data = PruneFilters(pruning_ratio=0.5), {"train": images()}
    before = [prune] if during else [prune, taught()]  # qat folds the norms, whose statistics stay then
    real = graphc.compile(resnet, passes=before, data=data, seed=0).program
    passes = [prune, taught(during), *last]
    done = graphc.compile(resnet, passes=passes, data=data, emit=["net.onnx"], output_dir=tmp_path, seed=0)
    assert done.report["after"]["macs"] < 0.3 * done.report["before"]["macs"]
    x = torch.cat(images())
    with torch.no_grad():
        assert sqnr(real(x), done.program(x)) > 15
    found = placement(tmp_path / "net.onnx")
    assert not found.floating
    assert len(found.integer) == 21
    kept = onnx.load(str(tmp_path / "net.onnx")).graph.initializer
    assert {t.data_type for t in kept if len(t.dims) == 4} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("end", ENDS)
def test_integers_cannot_be_pruned(resnet: graphc.Program, end: str) -> None:
    during, last = ENDS[end]
    passes = [taught(during), *last, PruneFilters(pruning_ratio=0.5)]
    with pytest.raises(GraphError, match="quantised") as error:
        graphc.compile(resnet, passes=passes, data={"train": images()})
    assert "prune-filters" in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize("end", ENDS)
def test_a_tied_table_stays_one(end: str, tmp_path: Path) -> None:
    model, inputs = tiny_gpt2()
    program = graphc.capture(model, (), inputs)
    during, last = ENDS[end]
    passes = [PruneWidth(pruning_ratio=0.25), taught(during), *last]
    done = graphc.compile(
        program, passes=passes, data={"train": [inputs]}, emit=["net.onnx"], output_dir=tmp_path, seed=0
    )
    assert is_quantised(done.program)
    (table,) = set(program.aliases.values())
    stored = done.program.tensors()[table]
    assert stored.dtype == torch.int8
    shape = sorted(stored.shape)
    kept = onnx.load(str(tmp_path / "net.onnx")).graph.initializer
    assert [t.data_type for t in kept if sorted(t.dims) == shape] == [onnx.TensorProto.INT8]
