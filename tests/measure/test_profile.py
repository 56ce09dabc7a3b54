"""Profiles: the work of each op, the module that it is of, and what bounds it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import helper

import graphc
from graphc.measure import roofline as roof
from graphc.measure.onnx_origins import module_of
from graphc.measure.onnx_work import bytes_of, dtype_of, macs_of
from graphc.measure.profile import Op, Profile, typical
from graphc.measure.profile_inductor import _base, profile_inductor
from graphc.measure.profile_onnx import profile_onnx
from graphc.measure.profile_torch import profile_eager
from graphc.measure.roofline import Roofline, measure_roofline
from tests import models

LINE = Roofline("cpu", 1, {"float32": 1e9, "int8": 4e9}, ((1000, 1e9), (10_000, 5e8), (100_000, 1e8)))


def op(macs: int, weights: int, values: int, ms: float = 1.0, dtype: str = "float32") -> Op:
    return Op("x", "MatMul", ("a",), ms, macs, weights, values, dtype)


def test_the_larger_of_two_rates_bounds_an_op() -> None:
    ops = (op(500_000, 100, 100), op(1000, 0, 100_000), op(0, 0, 0), op(500_000, 0, 0, 1.0, "int8"))
    compute, memory, still, integers = Profile(9.0, ops).limits(LINE)
    assert (compute.bound, compute.ideal_ms, compute.left_ms) == ("compute", 0.5, 0.5)
    assert (memory.bound, memory.ideal_ms) == ("memory", pytest.approx(1.0))
    assert (still.bound, still.ideal_ms, still.left_ms) == ("nothing", 0.0, 1.0)
    assert integers.ideal_ms == pytest.approx(0.125)


def test_weights_are_found_in_a_cache_only_if_all_of_them_fit_there() -> None:
    one, two = (Profile(1.0, (op(0, 1000, 0),) * n).limits(LINE)[0].ideal_ms for n in (1, 20))
    assert one == pytest.approx(1e-3)
    assert two == pytest.approx(1e-2)


def test_rates_are_positive_and_of_the_types_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roof, "SECONDS", 0.01)
    monkeypatch.setattr(roof, "SIDE", {"cpu": 64})
    monkeypatch.setattr(roof, "STREAMS", {"cpu": (2**12, 2**16)})
    found = measure_roofline("cpu", 1, {"int8", "bfloat16", "bool"})
    assert set(found.macs_per_s) == {"float32", "int8", "bfloat16"}
    assert all(rate > 0 for rate in (*found.macs_per_s.values(), *(rate for _, rate in found.bytes_per_s)))
    assert found.to_dict()["bytes_per_s"][0][0] == 2**12


def test_the_fastest_quarter_counts() -> None:
    assert typical([9, 1, 9, 9, 3, 9, 9, 9]) == 2


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "attributes", "macs"),
    [
        ("Conv", [[1, 3, 8, 8], [16, 3, 3, 3]], [[1, 16, 8, 8]], {}, 64 * 16 * 27),
        ("Conv", [[1, 6, 8, 8], [6, 1, 3, 3]], [[1, 8, 8, 8]], {}, 64 * 6 * 9),  # channels were added to fill a block
        ("QLinearConv", [[1, 3, 8, 8], [], [], [16, 3, 1, 1]], [[1, 16, 8, 8]], {}, 64 * 48),
        ("ConvTranspose", [[1, 3, 8, 8], [3, 5, 2, 2]], [[1, 5, 16, 16]], {}, 3 * 64 * 20),
        ("MatMul", [[2, 7, 5], [5, 3]], [[2, 7, 3]], {}, 2 * 7 * 3 * 5),
        ("Gemm", [[5, 7], [5, 3]], [[7, 3]], {"transA": 1}, 7 * 3 * 5),
        ("MatMulNBits", [[7, 64]], [[7, 3]], {"K": 64}, 7 * 3 * 64),
        ("MultiHeadAttention", [[1, 4, 8], [1, 6, 8], [1, 6, 8]], [[1, 4, 8]], {}, 2 * 4 * 6 * 8),
        ("MultiHeadAttention", [[1, 4, 2, 3, 8]], [[1, 4, 16]], {}, 2 * 16 * 2 * 8),
        ("Attention", [[1, 4, 8], [8, 24], [24]], [[1, 4, 8]], {}, 4 * 8 * 24 + 2 * 16 * 8),
        ("Attention", [[1, 2, 4, 8], [1, 2, 6, 8], [1, 2, 6, 8]], [[1, 2, 4, 8]], {}, 2 * 2 * 4 * 6 * 8),
        ("LSTM", [[5, 2, 3], [1, 16, 3], [1, 16, 4]], [[5, 1, 2, 4]], {}, 10 * (48 + 64)),
        ("Einsum", [[2, 3], [3, 4]], [[2, 4]], {"equation": b"ij,jk->ik"}, 24),
        ("Relu", [[2, 3]], [[2, 3]], {}, 0),
    ],
)
def test_the_work_of_onnx_ops(kind: str, inputs: Any, outputs: Any, attributes: Any, macs: int) -> None:
    assert macs_of(kind, inputs, outputs, attributes) == macs


def test_bytes_and_types_of_onnx_ops() -> None:
    assert bytes_of("MatMul", 10, 20, 30) == (10, 50)
    assert bytes_of("Gather", 10_000, 20, 30) == (0, 60)
    assert bytes_of("Reshape", 0, 20, 20) == (0, 0)
    assert [dtype_of(kind, "float") for kind in ("QLinearConv", "MatMul")] == ["int8", "float32"]


def test_names_of_other_exporters_tell_modules() -> None:
    assert module_of(helper.make_node("Conv", ["x"], ["y"], name="/layer1/layer1.0/Conv")) == "layer1.layer1.0"
    assert module_of(helper.make_node("Conv", ["x"], ["y"], name="node_7")) == ""


def products(profile: Profile) -> dict[str, int]:
    return {found.modules[0]: found.macs for found in profile.ops if found.macs}


@pytest.fixture(scope="module")
def program() -> graphc.Program:
    return models.residual()


LAYERS = ["stem", "conv1", "conv2", "head"]


def test_fused_ops_of_onnxruntime_are_of_their_modules(program: graphc.Program, tmp_path: Path) -> None:
    file = graphc.emit(program, tmp_path / "net.onnx").path
    found = profile_onnx(file, None, {"batch": 2}, 1, 1, 4)
    assert list(products(found)) == LAYERS
    assert sum(products(found).values()) == graphc.cost(program, batch=2).macs
    stem = next(one for one in found.ops if one.modules[:1] == ("stem",))
    assert {"stem", "norm", "act"} <= set(stem.modules)  # one op does the work of the three
    assert stem.weight_bytes >= 4 * 3 * 12 * 9
    assert found.ops_ms <= found.run_ms * 1.5
    assert all(one.ms > 0 for one in found.ops if one.macs)


def test_nodes_of_pytorch_are_of_their_modules(program: graphc.Program) -> None:
    found = profile_eager(program, {"batch": 2}, "cpu", 1, 4)
    assert list(products(found)) == LAYERS
    assert sum(products(found).values()) == graphc.cost(program, batch=2).macs
    head = next(one for one in found.ops if one.modules == ("head",))
    assert (head.op, head.weight_bytes) == ("aten.linear", 4 * (12 * 5 + 5))
    assert head.value_bytes == 4 * 2 * (12 + 5)
    assert "node by node" in found.note


def test_nodes_that_were_read_from_a_folder_are_of_the_modules_of_their_parameters(
    program: graphc.Program, tmp_path: Path
) -> None:
    loaded = graphc.load(graphc.emit(program, tmp_path / "net").path)
    assert list(products(profile_eager(loaded, {"batch": 2}, "cpu", 0, 2))) == LAYERS


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_kernels_of_torch_compile_are_of_their_modules() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))
    program = graphc.capture(net.eval(), (torch.randn(3, 8),), dynamic={"input": {0: "batch"}})
    found = profile_inductor(program, {"batch": 5}, "cpu", 1, 3)
    assert not found.note
    assert products(found) == {"0": 5 * 8 * 16, "3": 5 * 16 * 4}
    fused = next(one for one in found.ops if "fused" in one.op)
    assert {"1", "2"} <= set(fused.modules)
    assert fused.macs == 0


def test_what_kernels_are_called_in_a_profile() -> None:
    names = {
        "extern_kernels.addmm:1": "addmm",
        "torch.ops.aten._flash_attention.default:6": "_flash_attention",
        "torch.ops.mkldnn._linear_pointwise.default:2": "_linear_pointwise",
        "cpp_fused_gelu_0:2": "cpp_fused_gelu_0",
        "triton_poi_fused_relu_1:3": "triton_poi_fused_relu_1",
    }
    assert {kernel: _base(kernel) for kernel in names} == names


def test_a_profile_as_json() -> None:
    found = Profile(2.0, (op(500_000, 100, 100),)).to_dict(LINE)
    assert found["ops"][0]["modules"] == ["a"]
    assert {"bound", "ideal_ms", "left_ms", "macs", "ms", "dtype", "name", "op"} <= set(found["ops"][0])
