"""Taking turns: when a warm-up ends, and which devices are refused."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from graphc.errors import GraphError
from graphc.measure import turns
from graphc.measure.memory import peak_bytes, restart_peak
from graphc.measure.on_device import on_device
from graphc.measure.runnable import provider_of, run_on_device
from graphc.measure.turns import check_device, take_turns
from tests import models


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Milliseconds that the next runs take; the last one stays."""
    left: list[float] = []
    monkeypatch.setattr(turns, "once", lambda run, device: left.pop(0) if len(left) > 1 else left[0])
    return left


def test_a_warm_up_ends_when_times_are_steady(clock: list[float]) -> None:
    clock += [50.0, 40.0, 30.0, 20.0, 12.0, 10.0]
    found = take_turns([lambda: None], "cpu", None, 3)
    assert found.steady
    assert found.samples_ms == ((10.0, 10.0, 10.0),)
    assert 12 <= found.warmup <= 15  # five at 10 ms, and five before whose median is that, too


def test_a_warm_up_that_never_gets_steady_ends_too(clock: list[float]) -> None:
    clock += [float(2**i) for i in range(300)]
    found = take_turns([lambda: None], "cpu", None, 1)
    assert (found.steady, found.warmup) == (False, turns.MOST_ROUNDS)


def test_a_warm_up_of_given_length_has_it(clock: list[float]) -> None:
    clock += [1.0, 2.0, 4.0, 8.0, 16.0]
    found = take_turns([lambda: None], "cpu", 3, 2)
    assert (found.samples_ms, found.warmup, found.steady) == (((8.0, 16.0),), 3, True)


def test_what_a_run_takes_of_the_processor_is_told_apart_from_what_passes() -> None:
    found = take_turns([lambda: time.sleep(0.02), lambda: sum(range(10**6))], "cpu", 0, 3)
    assert min(found.samples_ms[0]) >= 20
    assert found.cpu_ms[0] < 10
    assert found.cpu_ms[1] > 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    for refuse in (check_device, provider_of):
        with pytest.raises(GraphError) as found:
            refuse("cuda")
        assert len(str(found.value).splitlines()) == 1


def test_a_session_runs_with_its_inputs_and_outputs_on_a_device() -> None:
    import onnxruntime as ort

    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "net", sides[:1], sides[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert onnx.checker.check_model(model) is None
    run_on_device(session, {"x": np.array([1, 2], np.float32)}, "cpu")()
    if torch.cuda.is_available() and "CUDAExecutionProvider" in ort.get_available_providers():
        session = ort.InferenceSession(model.SerializeToString(), providers=[provider_of("cuda")])
        run_on_device(session, {"x": np.array([1, 2], np.float32)}, "cuda")()


def test_a_program_on_another_device_makes_its_tensors_there() -> None:
    program = models.transformer()
    moved = on_device(program, "meta")
    assert {t.device.type for t in moved.tensors().values()} == {"meta"}
    args, kwargs = moved.contract.resized(batch=2)
    assert moved(*args, **kwargs).device.type == "meta"
    assert {t.device.type for t in program.tensors().values()} == {"cpu"}
    assert on_device(program, "cpu") is program


def test_a_peak_can_be_forgotten() -> None:
    big = torch.ones(2**26)  # 256 MB
    del big
    before = restart_peak()
    grown = peak_bytes() - before
    kept = torch.ones(2**24)
    assert peak_bytes() - before > grown + kept.nbytes // 2
