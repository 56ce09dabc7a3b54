"""Half precision in artifacts: how far its own rounding moves the outputs of a program."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph

from graphc.ir.edit import rebuild
from graphc.ir.program import Program

aten = torch.ops.aten
HALVES = (torch.float16, torch.bfloat16)


def in_float32(program: Program) -> Program | None:
    """The program with its tensors as they are and all values in float32; None if none is in half precision.

    Inputs keep their types, outputs may have others.
    """
    values = [node.meta.get("val") for node in program.graph.nodes]
    if not any(isinstance(value, torch.Tensor) and value.dtype in HALVES for value in values):
        return None
    tensors = {name: value.detach().float() for name, value in program.tensors().items() if value.dtype in HALVES}
    return rebuild(program, _widen, tensors=tensors)


def _widen(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "placeholder" and getattr(node.meta.get("val"), "dtype", None) in HALVES:
            readers = list(node.users)
            with graph.inserting_after(node):
                new = graph.call_function(aten.to.dtype, (node, torch.float32))
            for reader in readers:
                reader.replace_input_with(node, new)
        elif node.op == "call_function":
            node.args = tuple(map(_float32, node.args))
            node.kwargs = {key: _float32(value) for key, value in node.kwargs.items()}


def _float32(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value in HALVES else value
