"""Quantised programs in ONNX: QuantizeLinear and DequantizeLinear where and how runtimes fuse them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnxscript import opset18, opset21
from torch.fx import Graph, GraphModule, Node
from torch.onnx import ONNXProgram

from graphc.ir.edit import rebuild
from graphc.ir.graph import attribute
from graphc.ir.kinds import GLOBAL_AVERAGE, kind
from graphc.ir.program import Program
from graphc.ir.quantized import DEQUANTIZE, DYNAMIC, FAKE, LIBRARY, QUANTIZE, RANGES, UNPACK, expand, pack_int4

aten = torch.ops.aten
op: Any = opset18
op_of_blocks: Any = opset21
BLOCKS_OPSET = 21
"""The first operator set with blocks of a weight and with four bits."""
FOUR_BITS = "_four_bits"

LIBRARY.define("dequantize_linear(Tensor x, Tensor scale, Tensor zero_point, int axis, int block) -> Tensor")


def _dequantize_linear(x: Any, scale: Any, zero_point: Any, axis: int, block: int) -> Any:
    """ONNX's op: a scale a tensor, an entry of ``axis``, or a block of entries along it."""
    if block:
        scale, zero_point = (v.repeat_interleave(block, axis) for v in (scale, zero_point))
    elif scale.dim():
        shape = [1] * x.dim()
        shape[axis] = -1
        scale, zero_point = scale.view(shape), zero_point.view(shape)
    return torch.ops.graphc.dequantize(x, scale, zero_point)


LIBRARY.define("global_average(Tensor x) -> Tensor")
LIBRARY.impl("global_average", lambda x: x.mean((2, 3), True), "CompositeExplicitAutograd")
torch.library.register_fake("graphc::global_average", lambda x: x.mean((2, 3), True), lib=LIBRARY)
LIBRARY.impl("dequantize_linear", _dequantize_linear, "CompositeExplicitAutograd")
torch.library.register_fake("graphc::dequantize_linear", _dequantize_linear, lib=LIBRARY)


def _dynamic_product(x: Any, scale: Any, zero_point: Any, weight: Any, weight_scale: Any) -> Any:
    """``[..., in]`` as uint8 times ``[in, out]`` as int8 with a scale for each output."""
    return torch.ops.graphc.dequantize(x, scale, zero_point) @ (weight.to(scale.dtype) * weight_scale)


def _table_product(x: Any, table: Any, scale: Any, zero_point: Any) -> Any:
    """``[..., in]`` times the rows of a table ``[out, blocks, block / 2]`` in four bits: onnxruntime's MatMulNBits."""
    rows, blocks, half = table.shape
    sizes = {"K": blocks * half * 2, "N": rows, "bits": 4, "block_size": half * 2}
    inputs, shape = (x, table, scale, zero_point), (*x.shape[:-1], rows)
    return torch.onnx.ops.symbolic("com.microsoft::MatMulNBits", inputs, sizes, dtype=x.dtype, shape=shape, version=1)


LIBRARY.define(
    "dynamic_product(Tensor x, Tensor scale, Tensor zero_point, Tensor weight, Tensor weight_scale) -> Tensor"
)
LIBRARY.impl("dynamic_product", _dynamic_product, "CompositeExplicitAutograd")
torch.library.register_fake("graphc::dynamic_product", _dynamic_product, lib=LIBRARY)
DYNAMIC_PRODUCT = torch.ops.graphc.dynamic_product.default
LINEAR = torch.ops.graphc.dequantize_linear.default
AVERAGE = torch.ops.graphc.global_average.default


def least_opset(program: Program) -> int:
    """The operator set that a program's numbers need; 0 if any will do."""
    blocks = any(n.target is UNPACK or (n.target is DEQUANTIZE and _scale_rank(n) > 1) for n in program.graph.nodes)
    return BLOCKS_OPSET if blocks else 0


def _scale_rank(node: Node) -> int:
    """Along how many dims a scale varies."""
    return sum(size != 1 for size in _read(node, 1).meta["val"].shape)


def as_linear(module: GraphModule) -> None:
    """Say quantised ops as ONNX has them: weights turned as products read them, scales without empty dims."""
    graph = module.graph
    for node in reversed(list(graph.nodes)):
        if node.target is FAKE:
            expand(graph, node)
    for node in list(graph.nodes):
        if node.target in PRODUCTS and (_as_dynamic(module, node) or _as_shared_table(module, node)):
            continue
        if node.target is aten.linear.default:
            _as_product(graph, node)
        elif kind(node) == GLOBAL_AVERAGE and _read(node).target is DEQUANTIZE:
            _as_average(graph, node)
    for node in list(graph.nodes):
        if node.target is DEQUANTIZE:
            _Restated(module, node).replace()
    graph.eliminate_dead_code()


def _as_product(graph: Graph, node: Node) -> None:
    """A linear layer of integers as the product that kernels for integers are for: of matrices with the bias."""
    data, weight, *rest = node.args
    if not isinstance(data, Node) or not isinstance(weight, Node) or not _integers(weight):
        return
    bias = rest[0] if rest else None
    with graph.inserting_before(node):
        turned = _made(graph, node, aten.t.default, weight)
        if bias is not None and data.meta["val"].dim() == 2:
            new = _made(graph, node, aten.addmm.default, bias, data, turned)
        else:
            new = _made(graph, node, aten.matmul.default, data, turned)
            new = new if bias is None else _made(graph, node, aten.add.Tensor, new, bias)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


@dataclass(frozen=True)
class _Form:
    """Where a product has its data, weight and bias, and whether its weight is ``[out, in]``."""

    data: int
    weight: int
    bias: int | None
    by_rows: bool


PRODUCTS: dict[Any, _Form] = {
    aten.linear.default: _Form(0, 1, 2, True),
    aten.addmm.default: _Form(1, 2, 0, False),
    aten.mm.default: _Form(0, 1, None, False),
    aten.matmul.default: _Form(0, 1, None, False),
}


def _as_dynamic(module: GraphModule, node: Node) -> bool:
    """A product of values whose range is found when it runs, as one of integers: runtimes fuse it with what follows."""
    form = PRODUCTS[node.target]
    data, weight = (node.args[i] for i in (form.data, form.weight))
    if not isinstance(data, Node) or not isinstance(weight, Node):
        return False
    held = _held(weight.args[0]) if weight.target is DEQUANTIZE else None
    if data.target is not DEQUANTIZE or _read(data).target is not operator.getitem or held is None:
        return False
    if weight.args[0] is not held or _scale_rank(weight) > 1 or attribute(module, str(held.target)).dim() != 2:
        return False
    if form.by_rows and len(held.users) > 1:  # a table whose rows are read too stays as it is kept
        return False
    restated = _Restated(module, weight)
    scale = restated._flat(restated.scale)
    with node.graph.inserting_before(node):
        if form.by_rows:
            held = restated._new(held, "_turned", attribute(module, str(held.target)).t())
        new = node.graph.call_function(DYNAMIC_PRODUCT, (*data.args, held, scale))
    _finish(node, form, new)
    return True


def _as_shared_table(module: GraphModule, node: Node) -> bool:
    """A product with a table in four bits whose rows are read too: onnxruntime's op for the table as it is kept."""
    form = PRODUCTS[node.target]
    weight = node.args[form.weight]
    if not form.by_rows or not isinstance(weight, Node) or weight.target is not aten.view.default:
        return False
    real = _read(weight)
    held = _held(real.args[0]) if real.target is DEQUANTIZE else None
    if held is None or real.args[0] is held or len(held.users) == 1:
        return False
    restated = _Restated(module, real)
    scale, zeros = (restated._value(v).squeeze(-1) for v in (restated.scale, restated.zero_point))
    packed = pack_int4(torch.nn.functional.pad(zeros, (0, zeros.shape[1] % 2)))
    pairs = ((restated.scale, scale.flatten()), (restated.zero_point, packed.flatten()))
    tables = [restated._new(n, "_table", v) for n, v in pairs]
    with node.graph.inserting_before(node):
        new = node.graph.call_function(_table_product, (node.args[form.data], held, *tables))
    _finish(node, form, new)
    return True


def _finish(node: Node, form: _Form, new: Node) -> None:
    """Put a product in the place of another, with its bias."""
    bias = node.args[form.bias] if form.bias is not None and len(node.args) > form.bias else None
    if bias is not None:
        with node.graph.inserting_after(new):
            new = node.graph.call_function(aten.add.Tensor, (new, bias))
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _as_average(graph: Graph, node: Node) -> None:
    """A mean of images as the op that has a kernel for integers."""
    with graph.inserting_before(node):
        new = _made(graph, node, AVERAGE, node.args[0])
        if node.meta["val"].dim() == 2:
            new = _made(graph, node, aten.flatten.using_ints, new, 1)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _made(graph: Graph, near: Node, target: Any, *args: Any) -> Node:
    new = graph.call_function(target, args)
    new.meta = {key: near.meta[key] for key in ("nn_module_stack", "stack_trace") if key in near.meta}
    new.meta["val"] = target(*torch.fx.node.map_arg(args, lambda n: n.meta["val"]))
    return new


def _integers(weight: Node) -> bool:
    """Is a value made from integers of the program?"""
    while weight.target in (aten.view.default, aten.t.default, aten.transpose.int, aten.reshape.default):
        weight = _read(weight)
    return weight.target is DEQUANTIZE and _held(weight.args[0]) is not None


def unrounded(program: Program) -> Program | None:
    """The program with values as they are before they become integers; None if none does."""
    if not any(node.target in (QUANTIZE, DYNAMIC, FAKE) for node in program.graph.nodes):
        return None
    return rebuild(program, _without_rounding)


def _without_rounding(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.target is DEQUANTIZE:
            made = _read(node)
            made = _read(made) if made.target is operator.getitem else made
            if made.target in (QUANTIZE, DYNAMIC):
                node.replace_all_uses_with(_read(made))
        elif node.target is FAKE and _read(node).op != "get_attr":
            node.replace_all_uses_with(_read(node))


def _read(node: Node, index: int = 0) -> Node:
    """A tensor that an op reads."""
    found = node.args[index]
    assert isinstance(found, Node)
    return found


def _held(value: Any) -> Node | None:
    """The node of the tensor that a value is, packed or not."""
    if isinstance(value, Node) and value.target is UNPACK:
        value = value.args[0]
    return value if isinstance(value, Node) and value.op == "get_attr" else None


class _Restated:
    """One ``dequantize`` as ONNX's DequantizeLinear."""

    def __init__(self, module: GraphModule, node: Node) -> None:
        self.module, self.graph, self.node = module, module.graph, node
        self.x, self.scale, self.zero_point = (_read(node, i) for i in range(3))

    def replace(self) -> None:
        held = _held(self.x)
        rank = _scale_rank(self.node)
        if rank == 0:
            self._put(self.node, self.x, self._flat(self.scale), self._flat(self.zero_point), 0, 0)
        elif held is None:  # rows of a table with a scale each: ONNX has no op for them
            expand(self.graph, self.node)
        elif rank == 1 and self.x is held:
            self._by_axis(held)
        else:
            self._by_blocks(held)

    def _by_axis(self, held: Node) -> None:
        axis = next(i for i, size in enumerate(self._value(self.scale).shape) if size != 1)
        after = self._turned(self.node)
        data = self._value(held)
        if after is not None and len(held.users) == 1:  # kept turned: nothing is left to do when it runs
            data, axis, held = data.transpose(0, 1).contiguous(), 1 - axis, self._new(held, "_turned", data.t())
        else:
            after = None
        self._put(after or self.node, held, self._flat(self.scale), self._flat(self.zero_point), axis, 0)

    def _by_blocks(self, held: Node) -> None:
        """``[out, blocks, block]`` seen as ``[out, in]``, as ``[in, out]`` where products read it so."""
        data = self._value(held)
        four = self.x is not held
        if four:
            data = torch.ops.graphc.unpack_int4(data)
        block = data.shape[-1]
        scale, zero_point = (self._value(v).squeeze(-1) for v in (self.scale, self.zero_point))
        whole = next(iter(self.node.users))
        after = self._turned(whole) if len(self.node.users) == 1 else None
        data, axis = data.flatten(-2), data.dim() - 2
        if after is not None:
            data, scale, zero_point, axis = data.t(), scale.t(), zero_point.t(), 0
        ending = FOUR_BITS if four else "_blocks"
        kept = self._new(held, ending, data)
        scales, zeros = self._new(self.scale, ending, scale), self._new(self.zero_point, ending, zero_point)
        self._put(after or whole, kept, scales, zeros, axis, block)

    @staticmethod
    def _turned(node: Node) -> Node | None:
        """The transposition that is all a weight is for."""
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0].target is aten.t.default else None

    def _value(self, node: Node) -> torch.Tensor:
        found = attribute(self.module, str(node.target))
        assert isinstance(found, torch.Tensor)
        return found.detach()

    def _flat(self, node: Node) -> Node:
        """A scale as ONNX wants it; one that is computed has no dims already."""
        if node.op != "get_attr" or self._value(node).dim() == 0:
            return node
        value = self._value(node)
        return self._new(node, "_flat", value.flatten() if value.numel() > 1 else value.reshape(()))

    def _new(self, like: Node, ending: str, value: torch.Tensor) -> Node:
        name = f"{like.target}{ending}".replace(".", "_")
        if not hasattr(self.module, name):
            self.module.register_buffer(name, value.contiguous())
        with self.graph.inserting_before(self.node):
            return self.graph.get_attr(name)

    def _put(self, instead: Node, x: Node, scale: Node, zero_point: Node, axis: int, block: int) -> None:
        with self.graph.inserting_before(instead):
            new = self.graph.call_function(LINEAR, (x, scale, zero_point, axis, block))
        instead.replace_all_uses_with(new)


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
