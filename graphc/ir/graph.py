"""Small helpers on torch.fx graphs and modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

TORCH = Path(torch.__file__).parent


def attribute(module: torch.nn.Module, target: str) -> Any:
    """The tensor or submodule that a ``get_attr`` target names."""
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value


def copy_graph(graph: Graph, visit: Callable[[Node, Node], None] | None = None) -> Graph:
    """A copy whose nodes have the same names, metadata and calling convention."""
    new = Graph()
    mapping: dict[Node, Node] = {}
    for node in graph.nodes:
        mapping[node] = new.node_copy(node, mapping.__getitem__)
        mapping[node].meta = dict(node.meta)
        if visit is not None:
            visit(node, mapping[node])
    new.set_codegen(graph._codegen)
    return new


def drop_dead(graph: Graph) -> None:
    """Remove nodes that nothing depends on; a random op without a user counts as dead too."""
    graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))


def assemble(graph: Graph, tensors: Mapping[str, Any]) -> GraphModule:
    """A GraphModule whose ``get_attr`` targets are the given tensors; what is unused is left out."""
    used = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    return GraphModule({name: value for name, value in tensors.items() if name in used}, graph, "Program")


def module_path(node: Node) -> str:
    """The dotted path of the module that made a node; empty for the root."""
    stack = node.meta.get("nn_module_stack")
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return "" if path.startswith("_empty_nn_module_stack") else path


def module_kinds(node: Node) -> dict[str, Any]:
    """The class, or its name, of every module that a node was made in, by dotted path."""
    return {str(path): kind for path, kind in (node.meta.get("nn_module_stack") or {}).values()}


def source_line(node: Node) -> str:
    """The user's line that made a node, as ``file:line: code``: the innermost outside torch; or empty."""
    frames = re.findall(r'File "(.+?)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not Path(frame[0]).is_relative_to(TORCH)] or frames
    return "{}:{}: {}".format(*own[-1]) if own else ""
