"""Program: a model as a torch.fx graph, its input contract, and the passes that made it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from graphc.errors import GraphError, nearest

TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: a name, a dtype (None if it is no tensor) and a shape.

    A dim is a number, or the name of a dynamic dim (an expression of names in outputs).
    """

    name: str
    dtype: torch.dtype | None
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.") if self.dtype is not None else "constant"
        return f"{self.name}: {kind}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Contract:
    """What a Program promises its callers. No pass may change it.

    Attributes:
        inputs, outputs: flat specs, in the order of the pytree.
        args, kwargs: the example inputs it was captured with.
        dynamic: ``dynamic_shapes`` for torch.export, with names in place of Dim objects.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dynamic: Mapping[str, Any]

    def dims(self) -> dict[str, int]:
        """Names of the dynamic dims and their sizes in the example."""
        leaves = torch.utils._pytree.tree_leaves((self.args, dict(self.kwargs)))
        found: dict[str, int] = {}
        for spec, value in zip(self.inputs, leaves, strict=True):
            for i, dim in enumerate(spec.shape):
                if isinstance(dim, str):
                    found.setdefault(dim, int(value.shape[i]))
        return found

    def resized(self, **sizes: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Example inputs with dynamic dims of other sizes, by repeating or cutting the examples.

        Raises:
            GraphError: a name is not a dynamic dim of this program.
        """
        known = self.dims()
        for name in sizes:
            if name not in known:
                raise GraphError(f"no dynamic dim is called {name!r}", hint=nearest(name, known))
        leaves, tree = torch.utils._pytree.tree_flatten((self.args, dict(self.kwargs)))
        resized = []
        for spec, value in zip(self.inputs, leaves, strict=True):
            for i, dim in enumerate(spec.shape):
                if isinstance(dim, str) and dim in sizes:
                    index = torch.arange(sizes[dim], device=value.device) % value.shape[i]
                    value = value.index_select(i, index)
            resized.append(value)
        args, kwargs = torch.utils._pytree.tree_unflatten(resized, tree)
        return args, kwargs


@dataclass(frozen=True, eq=False)
class Program:
    """A traced model. Programs share tensors; none is ever changed in place.

    Attributes:
        module: the graph as a module: callable like the model, trainable.
        contract: inputs, outputs, example inputs.
        aliases: second names of tied tensors, and the name that the program uses.
        history: the passes that made this program, as text.
    """

    module: GraphModule
    contract: Contract
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    history: tuple[str, ...] = ()

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
        from graphc.ir.text import text  # noqa: PLC0415 - text is written in terms of Program

        return text(self)


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


def source_line(node: Node) -> str:
    """The user's line that made a node, as ``file:line: code``: the innermost outside torch; or empty."""
    frames = re.findall(r'File "(.+?)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not Path(frame[0]).is_relative_to(TORCH)] or frames
    return "{}:{}: {}".format(*own[-1]) if own else ""
