"""Ops that torch.onnx cannot translate, and how they are said in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from graphc.emitters import fusions, quantized
from graphc.ir.graph import attribute

aten = torch.ops.aten
op: Any = opset18
INT64 = 7
"""The number of ONNX's data type."""


def translations(exported: ExportedProgram) -> dict[Any, Callable[..., Any]]:
    """The entries of the table below whose op the program has."""
    targets = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    return {target: TRANSLATIONS[str(target)] for target in targets if str(target) in TRANSLATIONS}


def say_otherwise(graph: Graph) -> None:
    """Replace ops that torch.onnx knows in one form only, by others that say the same."""
    for node in list(graph.nodes):
        if node.target in OTHERWISE:
            with graph.inserting_before(node):
                new = OTHERWISE[node.target](graph, node)
            if new is not None:
                node.replace_all_uses_with(new)
                graph.erase_node(node)


def _unsqueeze(graph: Graph, node: Node) -> Node | None:
    """A complex number is a pair of real ones behind all dims: a dim counted from the end is one further away."""
    if not node.meta["val"].is_complex():
        return None
    data, dim = node.args
    assert isinstance(dim, int)
    pairs = graph.call_function(aten.view_as_real.default, (data,))
    pairs = graph.call_function(aten.unsqueeze.default, (pairs, dim if dim >= 0 else dim - 1))
    return graph.call_function(aten.view_as_complex.default, (pairs,))


def _clamp(graph: Graph, node: Node) -> Node | None:
    """Bounds that are tensors of one number as numbers; the optimizer of torch.onnx gets others out of order."""
    data, *bounds = node.args
    numbers = [_number(graph, bound) for bound in bounds]
    if None in [number for number, bound in zip(numbers, bounds, strict=True) if bound is not None]:
        return None
    return graph.call_function(aten.clamp.default, (data, *numbers))


def _number(graph: Graph, value: Any) -> float | None:
    """The number that a constant holds."""
    if not isinstance(value, Node) or value.op != "get_attr" or graph.owning_module is None:
        return None
    held = attribute(graph.owning_module, str(value.target))
    return float(held) if held.numel() == 1 else None


def _attention(graph: Graph, node: Node) -> Node | None:
    """Attention over four dims: of fewer, some of size 1 are put in; of more, those before the heads become one."""
    tensors = [n for n in node.args[:4] if isinstance(n, Node)]
    shapes = [n.meta["val"].shape for n in tensors]
    rank, ranks = len(shapes[0]), {len(shape) for shape in shapes}
    if rank < 4 and len(ranks) == 1:
        for _ in range(4 - rank):  # before queries and keys
            tensors = [graph.call_function(aten.unsqueeze.default, (n, -3)) for n in tensors]
        result = _attending(graph, node, tensors)
        for _ in range(4 - rank):
            result = graph.call_function(aten.squeeze.dim, (result, -3))
        return result
    before = [list(map(str, shape[: rank - 3])) for shape in shapes]
    sizes = [size if isinstance(size, int) else -1 for size in shapes[0][: rank - 3]]
    if rank < 5 or any(other != before[0] for other in before) or sizes.count(-1) > 1:
        return None
    flat = [graph.call_function(aten.flatten.using_ints, (n, 0, rank - 4)) for n in tensors]
    return graph.call_function(aten.unflatten.int, (_attending(graph, node, flat), 0, sizes))


def _attending(graph: Graph, node: Node, tensors: list[Node]) -> Node:
    """The same attention of other tensors."""
    others: Any = node.args[len(tensors) :]
    return graph.call_function(aten.scaled_dot_product_attention.default, (*tensors, *others), node.kwargs)


OTHERWISE: dict[Any, Callable[[Graph, Node], Node | None]] = {
    aten.unsqueeze.default: _unsqueeze,
    aten.clamp.Tensor: _clamp,
    aten.scaled_dot_product_attention.default: _attention,
}
"""What stands for an op; None where the op can stay."""


def _grouped_product(rows: Any, weights: Any, ends: Any) -> Any:
    """Rows sorted by group, each times its group's matrix: one product a group, joined again.

    Args:
        rows: ``[rows, in]``; those of a group end where ``ends`` says, ``[groups]``.
        weights: ``[groups, in, out]``; the number of groups is static.
    """
    ends = op.Cast(ends, to=INT64)
    along = op.Constant(value_ints=[0])
    start = op.Constant(value_ints=[0])
    parts = []
    for group in range(weights.shape[0]):
        end = op.Slice(ends, op.Constant(value_ints=[group]), op.Constant(value_ints=[group + 1]))
        weight = op.Gather(weights, op.Constant(value_int=group), axis=0)
        parts.append(op.MatMul(op.Slice(rows, start, end, along), weight))
        start = end
    return op.Concat(*parts, axis=0)


TRANSLATIONS: dict[str, Callable[..., Any]] = {
    "transformers.grouped_mm_fallback.default": _grouped_product,
    **quantized.TRANSLATIONS,
    **fusions.TRANSLATIONS,
}
"""By name, so that no library need be imported."""
