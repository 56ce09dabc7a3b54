"""ONNX files of hostile size or content are refused before onnxruntime reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.errors import GraphError
from graphc.measure.onnx_file import check_onnx
from tests import models


def model(*nodes: onnx.NodeProto, initializer: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [x], [y], initializer or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def external(location: str, offset: str = "0", length: str = "8") -> onnx.ModelProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return model(helper.make_node("Add", ["x", "w"], ["y"]), initializer=[tensor])


def claimed(*dims: int) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 8)
    return model(helper.make_node("Add", ["x", "w"], ["y"]), initializer=[tensor])


def recursive() -> onnx.ModelProto:
    made = model(helper.make_node("F", ["x"], ["y"], domain="own"))
    calls = helper.make_node("F", ["a"], ["b"], domain="own")
    made.functions.append(helper.make_function("own", "F", ["a"], ["b"], [calls], [helper.make_opsetid("own", 1)]))
    return made


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a circle": (
        lambda: model(helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["a", "x"], ["b"])),
        "circle",
    ),
    "nothing": (lambda: model(helper.make_node("Relu", ["nowhere"], ["y"])), "before it is computed"),
    "a billion entries": (lambda: claimed(10**9), "only 8 bytes"),
    "sizes that overflow": (lambda: claimed(2**32, 2**32), "only 8 bytes"),
    "a negative size": (lambda: claimed(-1), "negative"),
    "outside": (lambda: external("../secret"), "no file in the folder"),
    "absolute": (lambda: external("/etc/hostname"), "no file in the folder"),
    "a link": (lambda: external("link"), "no file in the folder"),
    "a short file": (lambda: external("short"), "does not fit"),
    "an offset": (lambda: external("data", offset="2000"), "does not fit"),
    "a place that is no number": (lambda: external("data", offset="x"), "no number"),
    "a constant made large": (
        lambda: model(
            helper.make_node("ConstantOfShape", ["s"], ["y"]),
            initializer=[numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "s")],
        ),
        "makes a constant",
    ),
    "functions in a circle": (recursive, "circle"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_hostile_files(tmp_path: Path, case: str) -> None:
    build, why = HOSTILE[case]
    (tmp_path / "secret").write_bytes(bytes(100))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "short").write_bytes(bytes(4))
    (folder / "data").write_bytes(bytes(1000))
    (folder / "m.onnx").write_bytes(build().SerializeToString())
    with pytest.raises(GraphError, match="refused") as caught:
        graphc.benchmark(folder / "m.onnx")
    assert why in caught.value.why


def test_no_onnx_at_all(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(GraphError, match="no ONNX file"):
        check_onnx(tmp_path / "m.onnx")


def test_good_files_pass(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(8))
    (tmp_path / "own.onnx").write_bytes(external("data").SerializeToString())
    check_onnx(tmp_path / "own.onnx")
    graphc.emit(models.residual(), tmp_path / "m.onnx")
    check_onnx(tmp_path / "m.onnx")
