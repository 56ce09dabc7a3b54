"""A program on another device: its tensors, its inputs, and the devices that its ops name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.fx import Graph
from torch.utils import _pytree as pytree

from graphc.ir.graph import assemble, copy_graph
from graphc.ir.program import Program


def on_device(program: Program, device: str) -> Program:
    """A copy to run there; its graph is not checked again, and it is for running alone."""
    if device == "cpu" and all(tensor.device.type == "cpu" for tensor in program.tensors().values()):
        return program
    graph = copy_graph(program.graph)
    name_device(graph, torch.device(device))
    tensors = {name: _moved(tensor, device) for name, tensor in program.tensors().items()}
    module = assemble(graph, tensors)
    module.train(program.module.training)
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda value: value.to(device), _example(program))
    return replace(program, module=module, contract=replace(program.contract, args=args, kwargs=kwargs))


def _example(program: Program) -> tuple[Any, Any]:
    return program.contract.args, dict(program.contract.kwargs)


def _moved(tensor: torch.Tensor, device: str) -> torch.Tensor:
    moved = tensor.detach().to(device)
    return torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved


def name_device(graph: Graph, device: torch.device) -> None:
    """Ops that make tensors, such as ``arange``, say on which device: on this one."""

    def there(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        if node.op == "call_function":
            node.args = pytree.tree_map(there, node.args)
            node.kwargs = pytree.tree_map(there, node.kwargs)
