"""Ops that torch.onnx cannot translate, and how they are said in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18
from torch.export import ExportedProgram
from torch.fx import Graph

aten = torch.ops.aten
op: Any = opset18
INT64 = 7
"""The number of ONNX's data type."""


def translations(exported: ExportedProgram) -> dict[Any, Callable[..., Any]]:
    """The entries of the table below whose op the program has."""
    targets = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    return {target: TRANSLATIONS[str(target)] for target in targets if str(target) in TRANSLATIONS}


def say_otherwise(graph: Graph) -> None:
    """Replace ops that torch.onnx knows for real numbers only: ``unsqueeze`` of complex ones.

    A complex number is a pair of real ones behind all dims, so that a dim counted from the end is one further away.
    """
    for node in graph.find_nodes(op="call_function", target=aten.unsqueeze.default):
        if node.meta["val"].is_complex():
            data, dim = node.args
            with graph.inserting_before(node):
                pairs = graph.call_function(aten.view_as_real.default, (data,))
                pairs = graph.call_function(aten.unsqueeze.default, (pairs, dim if dim >= 0 else dim - 1))
                node.replace_all_uses_with(graph.call_function(aten.view_as_complex.default, (pairs,)))
            graph.erase_node(node)


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


TRANSLATIONS: dict[str, Callable[..., Any]] = {"transformers.grouped_mm_fallback.default": _grouped_product}
"""By name, so that no library need be imported."""
