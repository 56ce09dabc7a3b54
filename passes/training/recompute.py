"""Recompute: layers whose inner values are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions
from torch.utils.checkpoint import checkpoint

from graphc.coupling import analyze
from graphc.coupling.regions import find_layers
from graphc.errors import GraphError
from graphc.ir.graph import copy_graph
from graphc.ir.program import Program

PREFIX = "layer_"


class _Recomputed(nn.Module):
    """A part of a graph; keeps what enters it. Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Any) -> Any:
        return checkpoint(self.part, *args, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._unseen()

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Running statistics see each batch once: the second computation leaves them as they are."""
        before = [(buffer, buffer.clone()) for buffer in self.part.buffers()]
        try:
            yield
        finally:  # torch leaves early, by an exception, once it has what it needs
            for buffer, value in before:
                buffer.data.copy_(value)


def recomputed(module: GraphModule, program: Program) -> GraphModule:
    """The module with every layer of the program computed twice, and its inner values kept nowhere.

    Args:
        module: the program's graph, perhaps with taps; shares its tensors with the result.
        program: whose layers they are.

    Raises:
        GraphError: the program has no layers.
    """
    found = [(layer.entry.name, layer.exit.name) for layer in find_layers(analyze(program))]
    if not found:
        why = "a layer is a module with one value in and one out of the same shape, such as encoder.layer.3"
        raise GraphError("gradient_checkpointing finds no layers", where="gradient_checkpointing", why=why)
    graph = copy_graph(module.graph)
    made = GraphModule(module, graph)
    nodes = {node.name: node for node in graph.nodes}
    spans = [_between(nodes[entry], nodes[leave]) for entry, leave in found]
    partitions: list[dict[Node, int | None]] = [dict.fromkeys(span, i) for i, span in enumerate(spans)]
    fuse_by_partitions(made, partitions, prefix=PREFIX)
    for i in range(len(partitions)):
        made.add_module(f"{PREFIX}{i}", _Recomputed(made.get_submodule(f"{PREFIX}{i}")))
    made.recompile()
    return made


def _between(entry: Node, leave: Node) -> list[Node]:
    """The ops on any way from one value to the other, the last one included, and tensors that only they read."""
    before, stack = {leave}, [leave]
    while stack:
        for node in stack.pop().all_input_nodes:
            if node not in before:
                before.add(node)
                stack.append(node)
    after: set[Node] = {entry}
    for node in entry.graph.nodes:
        if not after.isdisjoint(node.all_input_nodes):
            after.add(node)
    ops = {node for node in before & after if node is not entry}
    own = {node for node in before if node.op == "get_attr" and ops.issuperset(node.users)}
    return [node for node in entry.graph.nodes if node in ops or node in own]
