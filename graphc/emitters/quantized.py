"""Quantised programs in ONNX: QuantizeLinear and DequantizeLinear where and how runtimes fuse them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnxscript import opset18, opset21
from torch.fx import Graph, GraphModule, Node
from torch.onnx import ONNXProgram

from graphc.emitters.dequantize import FOUR_BITS, LINEAR, Restated, made_near, read, scale_rank
from graphc.emitters.kept_real import keep_real
from graphc.emitters.products import DYNAMIC_PRODUCT, PRODUCTS, restate_product
from graphc.ir.edit import rebuild
from graphc.ir.kinds import GLOBAL_AVERAGE, kind
from graphc.ir.program import Program
from graphc.ir.quantized import DEQUANTIZE, DYNAMIC, FAKE, LIBRARY, QUANTIZE, RANGES, UNPACK, expand

aten = torch.ops.aten
op: Any = opset18
op_of_blocks: Any = opset21
BLOCKS_OPSET = 21
"""The first operator set with blocks of a weight and with four bits."""

LIBRARY.define("global_average(Tensor x) -> Tensor")
LIBRARY.impl("global_average", lambda x: x.mean((2, 3), True), "CompositeExplicitAutograd")
torch.library.register_fake("graphc::global_average", lambda x: x.mean((2, 3), True), lib=LIBRARY)
AVERAGE = torch.ops.graphc.global_average.default


def least_opset(program: Program) -> int:
    """The operator set that a program's numbers need; 0 if any will do."""
    blocks = any(n.target is UNPACK or (n.target is DEQUANTIZE and scale_rank(n) > 1) for n in program.graph.nodes)
    return BLOCKS_OPSET if blocks else 0


def as_linear(module: GraphModule) -> None:
    """Say quantised ops as ONNX has them: weights turned as products read them, scales without empty dims."""
    graph = module.graph
    for node in reversed(list(graph.nodes)):
        if node.target is FAKE:
            expand(graph, node)
    for node in list(graph.nodes):
        if node.target in PRODUCTS:
            restate_product(module, node)
        elif kind(node) == GLOBAL_AVERAGE and read(node).target is DEQUANTIZE:
            _as_average(graph, node)
    keep_real(module)
    for node in list(graph.nodes):
        if node.target is DEQUANTIZE:
            Restated(module, node).replace()
    graph.eliminate_dead_code()


def _as_average(graph: Graph, node: Node) -> None:
    """A mean of images as the op that has a kernel for integers."""
    with graph.inserting_before(node):
        new = made_near(graph, node, AVERAGE, node.args[0])
        if node.meta["val"].dim() == 2:
            new = made_near(graph, node, aten.flatten.using_ints, new, 1)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def unrounded(program: Program) -> Program | None:
    """The program with values as they are before they become integers; None if none does."""
    if not any(node.target in (QUANTIZE, DYNAMIC, FAKE) for node in program.graph.nodes):
        return None
    return rebuild(program, _without_rounding)


def _without_rounding(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.target is DEQUANTIZE:
            made = read(node)
            made = read(made) if made.target is operator.getitem else made
            if made.target in (QUANTIZE, DYNAMIC):
                node.replace_all_uses_with(read(made))
        elif node.target is FAKE and read(node).op != "get_attr":
            node.replace_all_uses_with(read(node))


def _to_quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
    found = op.QuantizeLinear(x, scale, zero_point)
    if (low, high) not in RANGES.values():
        limits = [op.CastLike(op.Constant(value_int=limit), zero_point) for limit in (low, high)]
        found = op.Clip(found, *limits)
    return found


def _to_dequantize(x: Any, scale: Any, zero_point: Any, axis: int, block: int) -> Any:
    if block:
        return op_of_blocks.DequantizeLinear(x, scale, zero_point, axis=axis, block_size=block)
    return op.DequantizeLinear(x, scale, zero_point, axis=axis)


def _to_unpack(x: Any) -> Any:
    """Halves of bytes, as those of a table's rows."""
    low = op.BitwiseAnd(x, op.CastLike(op.Constant(value_int=15), x))
    high = op.BitShift(x, op.CastLike(op.Constant(value_int=4), x), direction="RIGHT")
    last = op.Constant(value_ints=[-1])
    pairs = op.Concat(op.Unsqueeze(low, last), op.Unsqueeze(high, last), axis=-1)
    return op.Reshape(pairs, op.Concat(op.Shape(x, end=-1), last, axis=0))


def _to_dynamic_product(x: Any, scale: Any, zero_point: Any, weight: Any, weight_scale: Any) -> Any:
    whole = op.Cast(op.MatMulInteger(x, weight, zero_point), to=onnx_ir.DataType.FLOAT)
    return op.Mul(whole, op.Mul(scale, weight_scale))


TRANSLATIONS: dict[str, Callable[..., Any]] = {
    str(QUANTIZE): _to_quantize,
    str(LINEAR): _to_dequantize,
    str(DYNAMIC): op.DynamicQuantizeLinear,
    str(UNPACK): _to_unpack,
    str(DYNAMIC_PRODUCT): _to_dynamic_product,
    str(AVERAGE): op.GlobalAveragePool,
}


def in_four_bits(translated: ONNXProgram) -> None:
    """Store the numbers of 0 to 15 that were made for it in four bits each."""
    for name, value in list(translated.model.graph.initializers.items()):
        if name.endswith(FOUR_BITS) and value.const_value is not None and value.dtype == onnx_ir.DataType.UINT8:
            numbers = value.const_value.numpy()
            flat = np.pad(numbers.reshape(-1), (0, numbers.size % 2))
            packed = flat[0::2] | (flat[1::2] << 4)
            tensor = onnx_ir.PackedTensor(
                np.ascontiguousarray(packed), onnx_ir.DataType.UINT4, shape=numbers.shape, name=name
            )
            value.const_value, value.type = tensor, onnx_ir.TensorType(onnx_ir.DataType.UINT4)
