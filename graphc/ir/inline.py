"""Regions that change nothing are part of the graph: autocast that is switched off."""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph, GraphModule, Node

from graphc.ir.graph import attribute

AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def inline_regions(graph: Graph, module: torch.nn.Module) -> None:
    """Put the body of each region without an effect in its place.

    A region under ``torch.autocast(..., enabled=False)`` computes what it would compute without it,
    since the program around it does not cast by itself.

    Args:
        graph: changed in place.
        module: has the bodies of the regions, by the names in the graph.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is AUTOCAST and node.args[2] is False:
            _inline(graph, node, module)


def _inline(graph: Graph, node: Node, module: torch.nn.Module) -> None:
    name, inputs = node.args[4], node.args[5:]
    assert isinstance(name, Node)
    body = attribute(module, str(name.target))
    assert isinstance(body, GraphModule)
    inline_regions(body.graph, body)
    inner = [n for n in body.graph.nodes if n.op == "placeholder"]
    mapping: dict[Node, Node] = dict(zip(inner, inputs, strict=True))  # type: ignore[arg-type] # regions take tensors
    with graph.inserting_before(node):
        for old in body.graph.nodes:
            if old.op not in ("placeholder", "output"):
                mapping[old] = graph.node_copy(old, mapping.__getitem__)
                if old.op == "get_attr":
                    mapping[old].target = f"{name.target}.{old.target}"
    results = body.graph.output_node().args[0]
    assert isinstance(results, (tuple, list))
    for user in list(node.users):
        assert user.target is operator.getitem
        result = results[user.args[1]]  # type: ignore[index] # a number by the region's convention
        user.replace_all_uses_with(mapping[result])  # type: ignore[index] # a node of the body
        graph.erase_node(user)
    graph.erase_node(node)
    if not name.users:
        graph.erase_node(name)
