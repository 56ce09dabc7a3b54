"""Watching: run a program and see values on the way, each once and only while it lives."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Interpreter, Node
from torch.fx import _pytree as fx_pytree

from graphc.ir.program import Program

Watch = Callable[[tuple[Any, ...], Mapping[str, Any], Any], None]
"""Given the arguments of a node by position, those by name, and its result."""


class Seen(NamedTuple):
    """A node that has been computed, from what, and what it gave."""

    node: Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    value: Any


def flat_inputs(program: Program, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> list[Any]:
    """Inputs in the structure of the example inputs, in the order of the contract."""
    info = getattr(program.graph._codegen, "pytree_info", None)
    given: Any = (tuple(args), dict(kwargs or {}))
    return list(fx_pytree.tree_flatten_spec(given, info.in_spec) if info is not None else args)


def walk(
    program: Program,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Generator[Seen, Any, None]:
    """Run a program node by node; a value that is not used any more is let go when the next node is asked for.

    Several programs can be walked side by side. What is sent to the generator takes the place of the value it
    gave last. The arguments are those of ``run_watched``.

    Yields:
        Every node in graph order. The last is the output node; its value has the outputs in their flat order.
    """
    run = Interpreter(program.module)
    run.args_iter = iter(flat_inputs(program, args, kwargs))
    own = tensors or {}
    for node in program.graph.nodes:
        given = run.fetch_args_kwargs_from_env(node)
        try:
            held = node.op == "get_attr" and node.target in own
            run.env[node] = own[str(node.target)] if held else getattr(run, node.op)(node.target, *given)
        except Exception as error:
            error.add_note(f"while computing {node.format_node()}")
            raise
        instead = yield Seen(node, *given, run.env[node])
        if instead is not None:
            run.env[node] = instead
        del given, instead
        for used in run.user_to_last_uses.get(node, ()):
            del run.env[used]


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
    outputs = None
    for node, given, named, value in walk(program, args, kwargs, tensors):
        if node in watches:
            watches[node](given, named, value)
        if node.op == "output":
            outputs = value
        del given, named, value  # nothing outlives its last use
    return program.graph.process_outputs(outputs)
