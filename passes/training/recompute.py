"""Recompute: layers whose inner values are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions, validate_partition
from torch.utils.checkpoint import checkpoint

from graphc.coupling import analyze
from graphc.coupling.regions import find_layers
from graphc.errors import GraphError
from graphc.ir.graph import copy_graph, module_path
from graphc.ir.program import Program


class _Recomputed(nn.Module):
    """A part of a graph; keeps what enters it. Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Any) -> Any:
        return checkpoint(self.part, *args, use_reentrant=False)


def recomputed(module: GraphModule, program: Program) -> GraphModule:
    """The module with every layer of the program computed twice, and its inner values kept nowhere.

    Args:
        module: the program's graph, perhaps with taps; shares its tensors with the result.
        program: whose layers they are.

    Raises:
        GraphError: the program has no layers.
    """
    layers = [layer.name for layer in find_layers(analyze(program))]
    graph = copy_graph(module.graph)
    made = GraphModule(module, graph)
    partitions: list[dict[Node, int | None]] = []
    for name in layers:
        nodes = [n for n in graph.nodes if n.op == "call_function" and f"{module_path(n)}.".startswith(f"{name}.")]
        if nodes and validate_partition(nodes):
            partitions.append(dict.fromkeys(nodes, len(partitions)))
    if not partitions:
        why = "a layer is a module with one value in and one out of the same shape, such as encoder.layer.3"
        raise GraphError("gradient_checkpointing finds no layers", where="gradient_checkpointing", why=why)
    fuse_by_partitions(made, partitions, prefix="layer_")
    for i in range(len(partitions)):
        made.add_module(f"layer_{i}", _Recomputed(made.get_submodule(f"layer_{i}")))
    made.recompile()
    return made
