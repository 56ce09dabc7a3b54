"""Products of integers in ONNX: each as the op, or the ops, that onnxruntime has one kernel for."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from graphc.emitters.dequantize import Restated, held_tensor, made_near, read, scale_rank
from graphc.ir.graph import attribute
from graphc.ir.quantized import DEQUANTIZE, LIBRARY, pack_int4

aten = torch.ops.aten


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


def restate_product(module: GraphModule, node: Node) -> None:
    """Put in the place of a product what says the same and runs in integers."""
    if not (_as_dynamic(module, node) or _as_shared_table(module, node)) and node.target is aten.linear.default:
        _as_product(module.graph, node)


def _as_product(graph: Graph, node: Node) -> None:
    """A linear layer of integers as the product that kernels for integers are for: of matrices with the bias."""
    data, weight, *rest = node.args
    if not isinstance(data, Node) or not isinstance(weight, Node) or not _integers(weight):
        return
    bias = rest[0] if rest else None
    with graph.inserting_before(node):
        turned = made_near(graph, node, aten.t.default, weight)
        if bias is not None and data.meta["val"].dim() == 2:
            new = made_near(graph, node, aten.addmm.default, bias, data, turned)
        else:
            new = made_near(graph, node, aten.matmul.default, data, turned)
            new = new if bias is None else made_near(graph, node, aten.add.Tensor, new, bias)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _as_dynamic(module: GraphModule, node: Node) -> bool:
    """A product of values whose range is found when it runs, as one of integers: runtimes fuse it with what follows."""
    form = PRODUCTS[node.target]
    data, weight = (node.args[i] for i in (form.data, form.weight))
    if not isinstance(data, Node) or not isinstance(weight, Node):
        return False
    held = held_tensor(weight.args[0]) if weight.target is DEQUANTIZE else None
    if data.target is not DEQUANTIZE or read(data).target is not operator.getitem or held is None:
        return False
    if weight.args[0] is not held or scale_rank(weight) > 1 or attribute(module, str(held.target)).dim() != 2:
        return False
    if form.by_rows and len(held.users) > 1:  # a table whose rows are read too stays as it is kept
        return False
    restated = Restated(module, weight)
    scale = restated.flat(restated.scale)
    with node.graph.inserting_before(node):
        if form.by_rows:
            held = restated.new(held, "_turned", attribute(module, str(held.target)).t())
        new = node.graph.call_function(DYNAMIC_PRODUCT, (*data.args, held, scale))
    _finish(node, form, new)
    return True


def _as_shared_table(module: GraphModule, node: Node) -> bool:
    """A product with a table in four bits whose rows are read too: onnxruntime's op for the table as it is kept."""
    form = PRODUCTS[node.target]
    weight = node.args[form.weight]
    if not form.by_rows or not isinstance(weight, Node) or weight.target is not aten.view.default:
        return False
    real = read(weight)
    held = held_tensor(real.args[0]) if real.target is DEQUANTIZE else None
    if held is None or real.args[0] is held or len(held.users) == 1:
        return False
    restated = Restated(module, real)
    scale, zeros = (restated.value(v).squeeze(-1) for v in (restated.scale, restated.zero_point))
    packed = pack_int4(torch.nn.functional.pad(zeros, (0, zeros.shape[1] % 2)))
    pairs = ((restated.scale, scale.flatten()), (restated.zero_point, packed.flatten()))
    tables = [restated.new(n, "_table", v) for n, v in pairs]
    with node.graph.inserting_before(node):
        new = node.graph.call_function(_table_product, (node.args[form.data], held, *tables))
    _finish(node, form, new)
    return True


def _finish(node: Node, form: _Form, new: Node) -> None:
    """Put a product in the place of another, with its bias."""
    bias = node.args[form.bias] if form.bias is not None and len(node.args) > form.bias else None
    new.meta["val"] = node.meta["val"]
    if bias is not None:
        with node.graph.inserting_after(new):
            new = made_near(node.graph, node, aten.add.Tensor, new, bias)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _integers(weight: Node) -> bool:
    """Is a value made from integers of the program?"""
    while weight.target in (aten.view.default, aten.t.default, aten.transpose.int, aten.reshape.default):
        weight = read(weight)
    return weight.target is DEQUANTIZE and held_tensor(weight.args[0]) is not None
