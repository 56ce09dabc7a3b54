"""Taps: a program as a module that also gives values on the way, at the speed of the program itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from graphc.ir.edit import find
from graphc.ir.graph import assemble, attribute, copy_graph
from graphc.ir.program import Program


def tapped(program: Program, nodes: Sequence[str]) -> GraphModule:
    """A module of the program's own tensors that gives ``(outputs, values)``; the program stays as it is.

    Called like the program. It is generated code, not an interpreter: training through it takes no
    longer than through the program.

    Args:
        nodes: names of the nodes whose values it gives as a list, in this order; a name may come twice.

    Raises:
        GraphError: a name is not known.
    """
    graph = copy_graph(program.graph)
    _extend_output(graph, [find(graph, name) for name in nodes])
    names = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    module = assemble(graph, {name: attribute(program.module, name) for name in names})
    module.train(program.module.training)
    return module


def _extend_output(graph: Graph, values: list[Node]) -> None:
    """Give the outputs, in their own structure, and the values."""
    output = graph.output_node()
    given: Any = output.args[0]
    info = getattr(graph._codegen, "pytree_info", None)
    if info is None or info.out_spec is None:
        output.args = ((given, values),)
        return
    leaves = list(given) if isinstance(given, (list, tuple)) else [given]
    spec = pytree.tree_structure((pytree.tree_unflatten([0] * len(leaves), info.out_spec), [0] * len(values)))
    codegen = copy.copy(graph._codegen)
    codegen.pytree_info = info._replace(out_spec=spec)  # type: ignore[attr-defined] # it has one
    graph.set_codegen(codegen)
    output.args = ([*leaves, *values],)
