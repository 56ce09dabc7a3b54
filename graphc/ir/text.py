"""Stable text of a Program: one line a node, the same for the same program on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.ir.contract import Contract
from graphc.ir.graph import module_path
from graphc.ir.specs import spec_of, symbols_of

SHORT = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}
SHORT |= {torch.int64: "i64", torch.int32: "i32", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool"}


def text(graph: Graph, contract: Contract, history: Sequence[str]) -> str:
    """The whole program: contract, nodes with types and module paths, history."""
    symbols = symbols_of(graph, contract)
    lines = [f"program({', '.join(map(str, contract.inputs))})"]
    lines += [f"  # {note}" for note in history]
    path = None
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            continue
        here = module_path(node)
        if here != path and node.op == "call_function":
            lines.append(f"  [{here or 'root'}]")
            path = here
        lines.append(f"    {_line(node, symbols)}")
    return "\n".join(lines)


def _line(node: Node, symbols: dict[str, str]) -> str:
    if node.op == "output":
        return f"return {_argument(node.args[0], symbols)}"
    words = [_argument(a, symbols) for a in node.args]
    words += [f"{key}={_argument(value, symbols)}" for key, value in node.kwargs.items()]
    return f"{node.name}: {_type(node.meta.get('val'), symbols)} = {operator_name(node)}({', '.join(words)})"


def operator_name(node: Node) -> str:
    """``aten.linear`` for the default overload, ``aten.add.Tensor`` for another."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target).removesuffix(".default")
    return getattr(node.target, "__name__", str(node.target))


def _argument(value: Any, symbols: dict[str, str]) -> str:
    if isinstance(value, Node):
        if value.op == "get_attr":
            return f"{value.target}{_shape(value.meta.get('val'), symbols)}"
        return value.name
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_argument(v, symbols) for v in value) + "]"
    return repr(value)


def _type(value: Any, symbols: dict[str, str]) -> str:
    if isinstance(value, torch.Tensor):
        return SHORT.get(value.dtype, str(value.dtype)) + _shape(value, symbols)
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_type(v, symbols) for v in value) + ")"
    return "int" if isinstance(value, torch.SymInt) else type(value).__name__


def _shape(value: Any, symbols: dict[str, str]) -> str:
    if not isinstance(value, torch.Tensor):
        return ""
    return f"[{', '.join(map(str, spec_of('', value, symbols).shape))}]"
