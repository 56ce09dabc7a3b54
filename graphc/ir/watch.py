"""Watching: run a program and see values on the way, each once and only while it lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.fx import _pytree as fx_pytree

from graphc.ir.program import Program

Watch = Callable[[tuple[Any, ...], Mapping[str, Any], Any], None]
"""Given the arguments of a node by position, those by name, and its result."""


class _Watched(Interpreter):
    def __init__(self, program: Program, watches: Mapping[Node, Watch], tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(program.module)
        self.watches = watches
        self.tensors = tensors

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.tensors[target] if target in self.tensors else super().get_attr(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.watches:
            self.watches[n](*self.fetch_args_kwargs_from_env(n), result)
        return result


def run_watched(
    program: Program,
    watches: Mapping[Node, Watch],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """Run a program; values that are not used any more are freed, as in a plain run.

    Args:
        program: stays as it is.
        watches: what to call when a node has been computed.
        args, kwargs: inputs, in the structure of the example inputs.
        tensors: to run with in place of the program's own, by name.

    Returns:
        What the program gives.
    """
    graph = program.graph
    info = getattr(graph._codegen, "pytree_info", None)
    given: Any = (tuple(args), dict(kwargs or {}))
    flat = fx_pytree.tree_flatten_spec(given, info.in_spec) if info is not None else list(args)
    result = _Watched(program, watches, tensors or {}).run(*flat, enable_io_processing=False)
    return graph.process_outputs(result)
