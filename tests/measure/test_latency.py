"""Latency: what is timed, in which order, and what is put back."""

from __future__ import annotations

import gc
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from graphc.errors import GraphError
from graphc.measure import Measurement, benchmark, compare, environment, ratio
from graphc.measure.latency import summarize
from graphc.measure.runnable import Runnable
from tests import models
from tests.models import image, seeded


def quick(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def slow(x: torch.Tensor) -> torch.Tensor:
    time.sleep(0.01)
    return x + 1


def test_what_is_slower_measures_slower() -> None:
    first, second = compare([slow, quick], inputs=torch.ones(3), warmup=2, repeat=10)
    assert first.name == "slow"
    assert first.min_ms > 10
    assert first.p50_ms > 5 * second.p50_ms
    found = ratio(first, second)
    assert found.low > 5
    assert found.low <= found.value <= found.high
    assert ratio(second, first).high < 0.2


def test_things_take_turns_after_the_warm_up() -> None:
    seen: list[str] = []
    things = [lambda x, n=name: seen.append(n) for name in "ABC"]
    results = compare(things, inputs=torch.ones(1), warmup=2, repeat=3, names=["A", "B", "C"])
    assert seen == list("ABCCBA" * 2 + "ABC")
    assert [r.name for r in results] == ["A", "B", "C"]
    assert [(r.warmup, r.repeat, len(r.samples_ms)) for r in results] == [(2, 3, 3)] * 3


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_collector_are_set_and_put_back(fails: bool) -> None:
    seen: set[tuple[int, bool, bool]] = set()

    def probe(x: torch.Tensor) -> None:
        seen.add((torch.get_num_threads(), gc.isenabled(), torch.is_grad_enabled()))
        if fails and len(seen) == 1:
            raise RuntimeError("stop")

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        if fails:
            with pytest.raises(RuntimeError, match="stop"):
                benchmark(probe, inputs=torch.ones(1), threads=2, warmup=0, repeat=2)
        else:
            assert benchmark(probe, inputs=torch.ones(1), threads=2, warmup=0, repeat=2).threads == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {(2, False, False)}
    assert gc.isenabled()


def test_figures_of_known_samples() -> None:
    samples = [float(i) for i in range(101)]
    found = summarize(samples, "x", Runnable(lambda: None, "x", "eager", 8), "cpu", 1, 5)
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.mean_ms, found.min_ms) == (50, 90, 99, 50, 0)
    assert found.throughput == 1000 * 8 / 50
    assert found.to_dict()["samples_ms"] == samples
    assert found.repeat == 101


def fixed(*samples: float) -> Measurement:
    return summarize(samples, "x", Runnable(lambda: None, "x", "eager", 1), "cpu", 1, 0)


def test_a_ratio_is_of_paired_samples() -> None:
    found = ratio(fixed(1, 10, 100), fixed(2, 20, 200))
    assert (found.value, found.low, found.high, found.confidence) == (0.5, 0.5, 0.5, 0.95)
    with pytest.raises(GraphError, match="3 and 2 samples"):
        ratio(fixed(1, 2, 3), fixed(1, 2))


def test_a_program_brings_its_inputs_at_any_batch() -> None:
    program = models.transformer()
    assert benchmark(program, warmup=1, repeat=2).batch == 1
    found = benchmark(program, batch=7, dims={"seq": 5}, warmup=1, repeat=2, name="seven")
    assert (found.batch, found.name, found.backend, found.device) == (7, "seven", "eager", "cpu")
    with pytest.raises(GraphError, match="'seq'"):
        benchmark(program, dims={"sek": 5})


def test_modules_need_inputs() -> None:
    model = seeded(models.Residual)
    assert benchmark(model, inputs={"x": image(5)}, warmup=0, repeat=1).batch == 5
    with pytest.raises(GraphError, match="give inputs="):
        benchmark(model)


def test_an_exported_file_is_timed_at_its_own_or_another_batch(tmp_path: Path) -> None:
    exported = torch.export.export(
        seeded(models.Residual), (image(),), dynamic_shapes={"x": {0: torch.export.Dim("b")}}
    )
    path = tmp_path / "net.pt2"
    torch.export.save(exported, path)
    assert benchmark(path, warmup=1, repeat=2).batch == 1
    found = benchmark(path, batch=6, warmup=1, repeat=2)
    assert (found.batch, found.name, found.backend) == (6, "net.pt2", "eager")
    with pytest.raises(GraphError, match="no dynamic dim is called 'seq'"):
        benchmark(path, dims={"seq": 3})


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """Embedding rows plus a bias: ``ids [batch, seq]`` and ``bias [8]``."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [5, 8], np.ones(40, np.float32))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("Add", ["rows", "bias"], ["out"])],
        "net",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, [8]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "seq", 8])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def test_an_onnx_file_gets_inputs_from_its_specs_or_from_the_caller(onnx_file: Path) -> None:
    found = benchmark(onnx_file, batch=6, dims={"seq": 9}, warmup=1, repeat=2)
    assert (found.batch, found.backend, found.name) == (6, "onnxruntime", "net.onnx")
    named = {"ids": torch.zeros(2, 3, dtype=torch.int64), "bias": torch.ones(8)}
    assert benchmark(onnx_file, inputs=named, warmup=0, repeat=1).batch == 2
    assert benchmark(onnx_file, inputs=tuple(named.values()), warmup=0, repeat=1).batch == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 2}, "dim 'seq' is not known"),
        ({"batch": 2, "dims": {"sek": 3, "seq": 3}}, "did you mean 'seq'"),
        ({"inputs": {"ids": torch.zeros(1, 1)}}, "'bias' is missing"),
        ({"inputs": {"ids": 0, "bias": 0, "bais": 0}}, "no input 'bais'"),
        ({"backend": "eager"}, "runs on onnxruntime"),
        ({"device": "tpu"}, "neither 'cpu' nor 'cuda'"),
        ({"repeat": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_timed_is_refused(onnx_file: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        benchmark(onnx_file, **options)


def test_missing_files_backends_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="does not exist"):
        benchmark(tmp_path / "no.onnx")
    with pytest.raises(GraphError, match="did you mean 'inductor'"):
        benchmark(quick, inputs=torch.ones(1), backend="inducter")
    with pytest.raises(GraphError, match="1 names for 2 things"):
        compare([quick, slow], inputs=torch.ones(1), names=["one"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_without_a_device_cuda_is_refused() -> None:
    with pytest.raises(GraphError, match="finds no CUDA device"):
        benchmark(quick, inputs=torch.ones(1), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_work_itself_is_timed() -> None:
    big = torch.randn(4096, 4096, device="cuda")
    small = torch.randn(64, 64, device="cuda")
    first, second = compare([lambda x: big @ big @ big, lambda x: small @ small], inputs=torch.ones(1), device="cuda")
    assert first.p50_ms > 2 * second.p50_ms


def test_the_environment_names_versions_but_no_host() -> None:
    found = environment()
    assert torch.__version__.startswith(found["versions"]["torch"].split("+")[0])
    assert {"cpu", "cores", "threads", "python", "platform"} <= set(found)
    assert found["versions"]["graphc"]
    text = json.dumps(found)
    assert platform.node() == "" or platform.node() not in text
    assert "/" not in text
