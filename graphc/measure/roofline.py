"""Roofline: the most that this machine was seen to do, measured, and what it says of an op (Williams et al. 2009).

An op takes at least as long as its multiply-accumulates take at the rate of a large matrix product, and at least as
long as its bytes take at the rate of a stream. The larger of the two bounds it, and what it takes above that is left
to win.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from graphc.measure.runnable import make_session, session_options
from graphc.measure.turns import once, threads_of_torch

SIDE = {"cpu": 512, "cuda": 8192}
"""Of the square matrices that are multiplied; on several threads so much larger that each has as much to do."""
STREAMS = {"cpu": (2**18, 2**21, 2**24, 2**28), "cuda": (2**26, 2**30)}
"""Bytes that a stream goes over: what fits into each cache, and what fits into none."""
SECONDS, LEAST = 0.25, 5
"""How long each rate is looked for, and in how many runs at least."""
INT8 = "int8"


@dataclass(frozen=True)
class Roofline:
    """What a device can do with some threads.

    Attributes:
        device, threads: what holds for.
        macs_per_s: multiply-accumulates a second (1 MAC = 2 FLOPs) of a large matrix product, by type of numbers; the
            better of torch and onnxruntime, ``int8`` (uint8 times int8) of onnxruntime.
        bytes_per_s: of ``a = b + s c`` over so many bytes (McCalpin's STREAM triad, which reads two and writes one).
    """

    device: str
    threads: int
    macs_per_s: Mapping[str, float]
    bytes_per_s: tuple[tuple[int, float], ...]

    def compute_ms(self, macs: int, dtype: str) -> float:
        """The least milliseconds for these multiply-accumulates; of a type that was not measured, as for float32."""
        return 1000 * macs / self.macs_per_s.get(dtype, self.macs_per_s["float32"]) if macs else 0.0

    def memory_ms(self, count: int, among: int | None = None) -> float:
        """The least milliseconds for these bytes.

        Args:
            count: of bytes that are read and written.
            among: bytes that pass between two uses of the same ones, ``count`` if not given: what is larger than a
                cache is not found in it again.
        """
        size = among or count
        rates = [rate for limit, rate in self.bytes_per_s if limit >= size] or [self.bytes_per_s[-1][1]]
        return 1000 * count / max(rates) if count else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-able values."""
        return {**asdict(self), "bytes_per_s": [list(pair) for pair in self.bytes_per_s]}


def measure_roofline(device: str, threads: int, dtypes: Collection[str] = ("float32",)) -> Roofline:
    """Measure it; takes a few seconds. Each rate is that of the fastest run, which nothing disturbed.

    On one thread of a processor it is time of the processor that counts: what other processes take away does not.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: of the processor.
        dtypes: types of numbers: torch's, or ``int8`` on a processor. float32 is always measured.
    """
    kind = device.partition(":")[0]
    with threads_of_torch(threads), torch.inference_mode():
        rates = {}
        for dtype in sorted({*dtypes, "float32"}):
            side = SIDE[kind] if kind == "cuda" else round(SIDE[kind] * threads**0.5 / 64) * 64
            if runs := _products(dtype, device, threads, side):
                rates[dtype] = side**3 / min(_fastest(run, device, threads) for run in runs)
        streams = tuple((size, size / _fastest(_triad(size, device), device, threads)) for size in STREAMS[kind])
    return Roofline(device, threads, rates, streams)


def _fastest(run: Callable[[], Any], device: str, threads: int) -> float:
    """Seconds of the fastest of many runs."""
    alone = device == "cpu" and threads == 1
    run()
    times: list[float] = []
    begin = time.process_time()
    while len(times) < LEAST or time.process_time() - begin < SECONDS:
        start = time.thread_time_ns()
        passed = once(run, device)
        times.append((time.thread_time_ns() - start) / 1e6 if alone else passed)
    return max(min(times), 1e-3) / 1000


def _triad(size: int, device: str) -> Callable[[], Any]:
    a, b, c = (torch.ones(max(1, size // 12), device=device) for _ in range(3))
    return lambda: torch.add(b, c, alpha=0.5, out=a)


def _products(dtype: str, device: str, threads: int, side: int) -> Sequence[Callable[[], Any]]:
    """Products of two square matrices, by every runtime that has one."""
    if dtype == INT8:
        return [_in_onnxruntime("MatMulInteger", (np.uint8, np.int8), threads, side)] if device == "cpu" else []
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        return []
    a, b, out = (torch.ones(side, side, device=device, dtype=kind) for _ in range(3))
    runs: list[Callable[[], Any]] = [lambda: torch.mm(a, b, out=out)]
    if dtype == "float32" and device == "cpu":
        runs.append(_in_onnxruntime("MatMul", (np.float32, np.float32), threads, side))
    return runs


def _in_onnxruntime(op: str, dtypes: tuple[Any, Any], threads: int, side: int) -> Callable[[], Any]:
    codes = [helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in dtypes]
    result = TensorProto.INT32 if op == "MatMulInteger" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", codes[0], [side, side])],
        [helper.make_tensor_value_info("c", result, [side, side])],
        [onnx.numpy_helper.from_array(np.ones((side, side), dtypes[1]), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(model, path)
        session = make_session(path, session_options(threads))
    feed = {"a": np.ones((side, side), dtypes[0])}
    return lambda: session.run(None, feed)
