"""Quantised ops are found in the arithmetic that they are, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.ir.edit import rebuild
from graphc.ir.quantized import DEQUANTIZE, DYNAMIC, FAKE, MEANING, QUANTIZE, UNPACK, in_aten, pack_int4
from graphc.ir.recognise import recognise
from graphc.ir.verify import verify

ops = torch.ops.graphc


class Rounds(nn.Module):
    """Numbers for what a function does."""

    def __init__(self, function: Callable[..., Any], dtype: torch.dtype, dims: bool) -> None:
        super().__init__()
        self.function = function
        shape = (5, 1) if dims else ()
        self.register_buffer("scale", torch.rand(shape) + 0.1)
        self.register_buffer("zero_point", torch.full(shape, 3, dtype=dtype))
        self.register_buffer("integers", torch.arange(15).reshape(5, 3).to(dtype))
        self.register_buffer("bytes", pack_int4(torch.arange(10).reshape(5, 2)))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x + 1)


SAMPLES: dict[Any, Callable[[Any, Tensor], Any]] = {
    FAKE: lambda m, x: ops.fake_quantize(x, m.scale, m.zero_point, -7, 8),
    QUANTIZE: lambda m, x: ops.quantize(x, m.scale, m.zero_point, 0, 100),
    DEQUANTIZE: lambda m, x: ops.dequantize(m.integers, m.scale, m.zero_point) * x,
    DYNAMIC: lambda m, x: ops.dequantize(*ops.quantize_dynamic(x)),
    UNPACK: lambda m, x: ops.unpack_int4(m.bytes) * x[:, :2],
}
UNLIKE: dict[str, Callable[[Any, Tensor], Any]] = {
    "the zero point is no integer": lambda m, x: (m.integers.to(torch.float32) - m.scale) * m.scale,
    "the integers are read as another type": lambda m, x: (m.integers.to(torch.float64) - m.zero_point) * m.scale,
    "what is rounded is of use elsewhere": lambda m, x: (
        (rounded := torch.round(x / m.scale)),
        (torch.clamp(rounded + m.zero_point, 0, 9) - m.zero_point) * m.scale,
    ),
    "another zero point": lambda m, x: (
        (torch.clamp(torch.round(x / m.scale) + m.zero_point, 0, 9) - m.zero_point[0]) * m.scale
    ),
    "no upper bound": lambda m, x: (torch.clamp(torch.round(x / m.scale) + m.zero_point, 0) - m.zero_point) * m.scale,
    "another number of bits": lambda m, x: torch.stack([m.bytes & 15, m.bytes >> 3], -1).flatten(-2),
}


def program(function: Callable[..., Any], dtype: torch.dtype = torch.uint8, dims: bool = True) -> graphc.Program:
    return graphc.capture(Rounds(function, dtype, dims), (torch.randn(5, 3),), dynamic={})


def test_every_op_has_a_sample() -> None:
    assert set(SAMPLES) == set(MEANING)


@pytest.mark.parametrize(("dtype", "dims"), [(torch.uint8, False), (torch.int8, True), (torch.int32, True)])
@pytest.mark.parametrize("op", SAMPLES, ids=lambda op: op._schema.name)
def test_an_op_is_found_in_what_it_is(op: Any, dtype: torch.dtype, dims: bool) -> None:
    before = program(SAMPLES[op], dtype, dims)
    assert op in {node.target for node in before.graph.nodes}
    plain = rebuild(before, in_aten)
    assert not MEANING.keys() & {node.target for node in plain.graph.nodes}
    found = rebuild(plain, recognise)
    verify(found)
    assert str(found).replace("_default", "") == str(before).replace("_default", "")
    x = torch.randn(5, 3)
    assert torch.equal(plain(x), before(x))
    assert torch.equal(found(x), before(x))


@pytest.mark.parametrize("op", SAMPLES, ids=lambda op: op._schema.name)
def test_values_are_known_without_computing_them_again(op: Any) -> None:
    plain = rebuild(program(SAMPLES[op]), in_aten)
    recognise(plain.graph)
    found = {node.name: node.meta["val"] for node in plain.graph.nodes if node.op == "call_function"}
    again = {node.name: node.meta.get("val") for node in rebuild(plain).graph.nodes}
    for name, value in found.items():
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (value, again[name])), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize("what", UNLIKE)
def test_arithmetic_that_is_something_else_stays(what: str) -> None:
    found = program(UNLIKE[what])
    assert not MEANING.keys() & {node.target for node in found.graph.nodes}


def test_arithmetic_that_a_user_wrote_is_found() -> None:
    found = program(lambda m, x: (torch.clamp(torch.round(x / m.scale) + m.zero_point, 0, 9) - m.zero_point) * m.scale)
    assert [node.target for node in found.graph.nodes if node.op == "call_function"][-1] is FAKE
