"""Selecting outputs: a Program that gives some of what another gives; what only the others needed goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from graphc.errors import GraphError, nearest
from graphc.ir.edit import replace
from graphc.ir.graph import copy_graph, drop_dead
from graphc.ir.program import Program
from graphc.ir.specs import outputs_of, symbols_of


def select_outputs(program: Program, wanted: Sequence[str | int], note: str | None = None) -> Program:
    """A new Program with some of the outputs, in their old order. The inputs stay, also those that nothing reads.

    Outputs by field become a dict by the contract's names, all others a tuple; a single tensor stays one.

    Args:
        program: is left as it is.
        wanted: names of the contract, or places in it.
        note: what to add to the history.

    Raises:
        GraphError: none is wanted, or one that there is not.
    """
    names = [spec.name for spec in program.contract.outputs]
    if not wanted:
        raise GraphError("no output is selected", hint=f"the outputs are {', '.join(names)}")
    kept = sorted({_place(key, names) for key in wanted})
    graph = copy_graph(program.graph)
    node = graph.output_node()
    leaves, info = pytree.tree_leaves(node.args[0]), graph._codegen.pytree_info  # type: ignore[attr-defined]
    whole = pytree.tree_unflatten(list(range(len(leaves))), info.out_spec)
    part = {names[i]: i for i in kept} if isinstance(whole, Mapping) else tuple(kept)
    spec = info.out_spec if isinstance(whole, int) else pytree.tree_structure(part)
    node.args = (tuple(leaves[i] for i in kept),)
    graph.set_codegen(_PyTreeCodeGen(info._replace(out_spec=spec)))
    drop_dead(graph)
    made = replace(program, graph, {}, note)
    outputs = outputs_of(made.graph, symbols_of(made.graph, program.contract))
    return dataclasses.replace(made, contract=dataclasses.replace(program.contract, outputs=outputs))


def _place(key: str | int, names: Sequence[str]) -> int:
    if isinstance(key, str) and key in names:
        return names.index(key)
    if isinstance(key, int) and 0 <= key < len(names):
        return key
    raise GraphError(f"there is no output {key!r}", hint=nearest(str(key), names))
