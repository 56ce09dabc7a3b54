"""Quantised numbers: the ops that turn real numbers into integers and back.

``real = (integer - zero_point) * scale`` with ``integer = clamp(round(real / scale) + zero_point, low, high)``,
halves rounded to even. A scale has no dims for a whole tensor, or dims that broadcast against it: ``[out, 1, 1, 1]``
for each output of a convolution, ``[out, blocks, 1]`` for a weight kept as ``[out, blocks, block]``. The integer
type is that of the zero point. Each op is written in ATen once (``MEANING``): that is how it runs, how its shape
is found, and what takes its place in formats that have no word for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.proxy import GraphAppendingTracer, Proxy

from graphc.ir.program import Program

aten = torch.ops.aten
LIBRARY: Any = torch.library.Library("graphc", "DEF")  # type: ignore[no-untyped-call] # torch has no types for it
LIBRARY.define("fake_quantize(Tensor x, Tensor scale, Tensor zero_point, int low, int high) -> Tensor")
LIBRARY.define("quantize(Tensor x, Tensor scale, Tensor zero_point, int low, int high) -> Tensor")
LIBRARY.define("dequantize(Tensor x, Tensor scale, Tensor zero_point) -> Tensor")
LIBRARY.define("quantize_dynamic(Tensor x) -> (Tensor, Tensor, Tensor)")
LIBRARY.define("unpack_int4(Tensor x) -> Tensor")
RANGES = {
    torch.int8: (-128, 127),
    torch.uint8: (0, 255),
    torch.int16: (-32768, 32767),
    torch.int32: (-(2**31), 2**31 - 1),
}
"""Least and greatest number of each integer type."""

ROWS = {aten.index.Tensor, aten.embedding.default}
"""Ops that pick rows of a table."""


def _steps(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
    """The integers, still as real numbers."""
    steps = aten.add.Tensor(aten.round.default(aten.div.Tensor(x, scale)), zero_point)
    return aten.clamp.default(steps, low, high)


def _fake_quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
    steps = _steps(x, scale, zero_point, low, high)
    return aten.mul.Tensor(aten.sub.Tensor(steps, zero_point), scale)


def _quantize(dtype: torch.dtype) -> Callable[..., Any]:
    def quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
        return aten.to.dtype(_steps(x, scale, zero_point, low, high), dtype)

    return quantize


def _dequantize(dtype: torch.dtype) -> Callable[..., Any]:
    def dequantize(x: Any, scale: Any, zero_point: Any) -> Any:
        return aten.mul.Tensor(aten.sub.Tensor(aten.to.dtype(x, dtype), zero_point), scale)

    return dequantize


def _quantize_dynamic(x: Any) -> Any:
    """To uint8 with the range of the whole tensor and zero, as ONNX's DynamicQuantizeLinear does."""
    low, high = aten.clamp.default(aten.min.default(x), None, 0), aten.clamp.default(aten.max.default(x), 0)
    scale = aten.clamp.default(aten.div.Tensor(aten.sub.Tensor(high, low), 255), torch.finfo(torch.float32).tiny)
    zero_point = aten.clamp.default(aten.round.default(aten.div.Tensor(aten.neg.default(low), scale)), 0, 255)
    zero_point = aten.to.dtype(zero_point, torch.uint8)
    return _quantize(torch.uint8)(x, scale, zero_point, 0, 255), scale, zero_point


def _unpack_int4(x: Any) -> Any:
    """Two numbers of 0 to 15 from each byte of the last dim, the lower half of the byte first."""
    halves = [aten.bitwise_and.Scalar(x, 15), aten.__rshift__.Scalar(x, 4)]
    return aten.flatten.using_ints(aten.stack.default(halves, -1), -2)


def pack_int4(x: torch.Tensor) -> torch.Tensor:
    """Numbers of 0 to 15, two in a byte: ``[..., n]`` becomes uint8 ``[..., n / 2]``, the first in the lower half."""
    pairs = x.to(torch.uint8).reshape(*x.shape[:-1], -1, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)


FAKE = torch.ops.graphc.fake_quantize.default
QUANTIZE = torch.ops.graphc.quantize.default
DEQUANTIZE = torch.ops.graphc.dequantize.default
DYNAMIC = torch.ops.graphc.quantize_dynamic.default
UNPACK = torch.ops.graphc.unpack_int4.default
MEANING: dict[Any, Callable[..., Callable[..., Any]]] = {
    FAKE: lambda x, scale, zero_point, low, high: _fake_quantize,
    QUANTIZE: lambda x, scale, zero_point, low, high: _quantize(zero_point.dtype),
    DEQUANTIZE: lambda x, scale, zero_point: _dequantize(scale.dtype),
    DYNAMIC: lambda x: _quantize_dynamic,
    UNPACK: lambda x: _unpack_int4,
}
"""For each op what it is in ATen, given values that stand for its arguments (their types matter)."""


def _register(op: Any) -> None:
    def run(*args: Any) -> Any:
        return MEANING[op](*args)(*args)

    name = op._schema.name.removeprefix("graphc::")
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"graphc::{name}", run, lib=LIBRARY)


for _op in MEANING:
    _register(_op)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, scale, zero_point, ctx.low, ctx.high = inputs
    ctx.save_for_backward(x, scale, zero_point)


def _learn(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Esser et al. 2020, Learned Step Size Quantization.

    The gradient passes where ``x`` is within the range. By the scale it is ``q - x / scale`` there and the clamped
    number beyond, the sum over what the scale is for divided by ``sqrt(numbers * high)``.
    """
    x, scale, zero_point = ctx.saved_tensors
    real = x / scale
    steps = real.round() + zero_point
    inside = (steps >= ctx.low) & (steps <= ctx.high)
    by_scale = None
    if ctx.needs_input_grad[1]:
        error = steps.clamp(ctx.low, ctx.high) - zero_point - torch.where(inside, real, 0)
        numbers = x.numel() / scale.numel()
        by_scale = (gradient * error).sum_to_size(scale.shape) / (numbers * ctx.high) ** 0.5
    return gradient * inside, by_scale, None, None, None


torch.library.register_autograd("graphc::fake_quantize", _learn, setup_context=_keep, lib=LIBRARY)


def packed(graph: Graph) -> set[str]:
    """Names of tensors with two numbers in each byte."""
    read = [node.args[0] for node in graph.nodes if node.target is UNPACK]
    return {name for name in map(_held, read) if name is not None}


def scales(graph: Graph) -> set[str]:
    """Names of tensors that only say what integers stand for: scales and zero points."""
    read = [a for node in graph.nodes if node.target in (FAKE, QUANTIZE, DEQUANTIZE) for a in node.args[1:3]]
    return {name for name in map(_held, read) if name is not None}


def _held(value: Any) -> str | None:
    """The name of the tensor that a value is, or is rows of; None if it is computed otherwise."""
    while value.op == "call_function" and value.target in ROWS:
        value = value.args[0]
    return str(value.target) if value.op == "get_attr" else None


def is_quantised(program: Program) -> bool:
    """Has a program integers, or real numbers that are rounded as if they were?"""
    return any(node.target in MEANING for node in program.graph.nodes)


def in_aten(graph: Graph) -> None:
    """Say every quantised op of a graph in ATen, in place, the last first: what it is depends on types before it."""
    for node in reversed(list(graph.nodes)):
        if node.target in MEANING:
            expand(graph, node)


def expand(graph: Graph, node: Node) -> None:
    """Say one quantised op in ATen, in place."""
    args: list[Any] = list(node.args)
    meaning = MEANING[node.target](*[a.meta["val"] if isinstance(a, Node) else a for a in args])
    before = node.prev
    with graph.inserting_before(node):
        tracer = GraphAppendingTracer(graph)
        result = meaning(*[Proxy(a, tracer) if isinstance(a, Node) else a for a in args])
    while (before := before.next) is not node:
        before.meta = {key: node.meta[key] for key in ("nn_module_stack",) if key in node.meta}
    if isinstance(result, tuple):
        for user in list(node.users):
            user.replace_all_uses_with(result[user.args[1]].node)  # type: ignore[index] # getitem by a number
            graph.erase_node(user)
    else:
        node.replace_all_uses_with(result.node)
    graph.erase_node(node)
