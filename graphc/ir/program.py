"""Program: a model as a torch.fx graph, its input contract, and the passes that made it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule

from graphc.ir.contract import Contract
from graphc.ir.graph import attribute
from graphc.ir.text import text


@dataclass(frozen=True, eq=False)
class Program:
    """A traced model. Programs share tensors; none is ever changed in place.

    Attributes:
        module: the graph as a module: callable like the model, trainable.
        contract: inputs, outputs, example inputs.
        aliases: second names of tied tensors, and the name that the program uses.
        history: the passes that made this program, as text.
        unused: parameters of the model that the graph does not read, by name: what a supernet has for other
            choices than the traced one. They count nowhere, and no file has them.
    """

    module: GraphModule
    contract: Contract
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    history: tuple[str, ...] = ()
    unused: Mapping[str, torch.nn.Parameter] = dataclasses.field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program like the model it was captured from."""
        return self.module(*args, **kwargs)

    @property
    def graph(self) -> Graph:
        """The torch.fx graph; read it, and edit only a copy (``graphc.ir.edit``)."""
        return self.module.graph

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All trainable tensors, tied ones once."""
        return self.module.parameters()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every parameter, buffer and constant that the graph uses, by name."""
        found = ((n.target, attribute(self.module, str(n.target))) for n in self.graph.nodes if n.op == "get_attr")
        return {str(name): value for name, value in found if isinstance(value, torch.Tensor)}

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example inputs as (args, kwargs)."""
        return self.contract.args, dict(self.contract.kwargs)

    def __str__(self) -> str:
        return text(self.graph, self.contract, self.history)
