"""ONNX files, run by onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import graphc
from graphc.emitters import emit
from graphc.errors import EmitError
from tests import models
from tests.emitters.programs import program


@pytest.mark.parametrize("name", ["residual", "residual/2", "nested", "bert/2", "gpt2/2"])
def test_written_and_equal(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = emit(program(name), tmp_path / "x.onnx")
    assert artifact.error < 1e-5
    assert len(artifact.sizes) == 2
    assert artifact.bytes == (tmp_path / "x.onnx").stat().st_size
    assert capfd.readouterr() == ("", "")


def test_names_metadata_and_other_sizes(tmp_path: Path) -> None:
    half = program("bert/2")
    emit(half, tmp_path / "x.onnx")
    proto = onnx.load(tmp_path / "x.onnx")
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {"input_ids": ["batch", "seq"], "attention_mask": ["batch", "seq"], "logits": ["batch", 5]}
    properties = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(properties["graphc_history"]) == ["half"]
    assert json.loads(properties["graphc_inputs"])["input_ids"] == ["batch", "seq"]
    assert proto.producer_name == "graphc"
    assert properties["graphc_version"] == proto.producer_version
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    for batch, seq in ((1, 11), (3, 1), (5, 20)):
        _, inputs = half.contract.resized(batch=batch, seq=seq)
        inputs["attention_mask"][0, seq // 2 + 1 :] = 0
        expected = half(**inputs).logits.detach().numpy()
        found = session.run(["logits"], {k: v.numpy() for k, v in inputs.items()})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_external_data(tmp_path: Path) -> None:
    apart = emit(program("residual"), tmp_path / "apart.onnx", threshold=1000)
    one = emit(program("residual"), tmp_path / "one.onnx", threshold=10**6)
    forced = emit(program("residual"), tmp_path / "forced.onnx", external_data=True)
    assert {p.name for p in tmp_path.iterdir()} == {
        *("apart.onnx", "apart.onnx.data", "one.onnx", "forced.onnx", "forced.onnx.data")
    }
    assert apart.bytes == sum((tmp_path / n).stat().st_size for n in ("apart.onnx", "apart.onnx.data"))
    assert min(apart.bytes, one.bytes, forced.bytes) > 12_000
    onnxruntime.InferenceSession(tmp_path / "apart.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opset", [18, 20])
def test_opset_version(opset: int, tmp_path: Path) -> None:
    emit(program("residual"), tmp_path / "x.onnx", opset_version=opset)
    assert [e.version for e in onnx.load(tmp_path / "x.onnx").opset_import if not e.domain] == [opset]


def test_an_op_that_onnx_does_not_have(tmp_path: Path) -> None:
    ruleless = graphc.capture(models.seeded(models.Ruleless), (models.vectors(),))
    with pytest.raises(EmitError, match="i1e"):
        emit(ruleless, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_dtype_that_onnxruntime_does_not_have(tmp_path: Path) -> None:
    half = graphc.capture(models.seeded(models.Residual).bfloat16(), (models.image().bfloat16(),))
    with pytest.raises(EmitError, match=r"does not load(.|\n)*bfloat16"):
        emit(half, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
    assert emit(half, tmp_path / "x.pt2").error == 0.0


class Twice(torch.nn.Module):
    """Gives an input back, and one value twice."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        return x, y, y


def test_outputs_that_are_one_value(tmp_path: Path) -> None:
    emit(graphc.capture(Twice(), (models.vectors(),)), tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["output_0", "output_1", "output_2"]
