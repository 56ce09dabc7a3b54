"""Selecting outputs: a Program that gives some of what another gives; what only the others needed goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from graphc.errors import GraphError, nearest
from graphc.ir.contract import Contract
from graphc.ir.edit import replace
from graphc.ir.graph import copy_graph, drop_dead
from graphc.ir.program import Program


def select_outputs(program: Program, wanted: Sequence[str | int], note: str | None = None) -> Program:
    """A new Program with some of the outputs, in their old order. The inputs stay, also those that nothing reads.

    Outputs by field become a dict by the contract's names, all others a tuple, each still called by the place that it
    had (``output_1``); a single tensor stays one.

    Args:
        program: is left as it is.
        wanted: names of the contract, or places in it.
        note: what to add to the history.

    Raises:
        GraphError: none is wanted, or one that there is not.
    """
    contract, names = with_outputs(program.contract, wanted), [spec.name for spec in program.contract.outputs]
    kept = [names.index(spec.name) for spec in contract.outputs]
    graph = copy_graph(program.graph)
    node = graph.output_node()
    leaves, info = pytree.tree_leaves(node.args[0]), graph._codegen.pytree_info  # type: ignore[attr-defined]
    whole = pytree.tree_unflatten(list(range(len(leaves))), info.out_spec)
    part = {names[i]: i for i in kept} if isinstance(whole, Mapping) else tuple(kept)
    spec = info.out_spec if isinstance(whole, int) else pytree.tree_structure(part)
    node.args = (tuple(leaves[i] for i in kept),)
    graph.set_codegen(_PyTreeCodeGen(info._replace(out_spec=spec)))
    drop_dead(graph)
    return dataclasses.replace(replace(program, graph, {}, note), contract=contract)


def with_outputs(contract: Contract, wanted: Sequence[str | int]) -> Contract:
    """The contract with some of the outputs, in their old order.

    Raises:
        GraphError: none is wanted, or one that there is not.
    """
    names = [spec.name for spec in contract.outputs]
    if not wanted:
        raise GraphError("no output is selected", hint=f"the outputs are {', '.join(names)}")
    kept = {_place(key, names) for key in wanted}
    sides = [tuple(spec for i, spec in enumerate(contract.outputs) if (i in kept) is side) for side in (True, False)]
    return dataclasses.replace(contract, outputs=sides[0], dropped=(*contract.dropped, *sides[1]))


def _place(key: str | int, names: Sequence[str]) -> int:
    if isinstance(key, str) and key in names:
        return names.index(key)
    if isinstance(key, int) and 0 <= key < len(names):
        return key
    raise GraphError(f"there is no output {key!r}", hint=nearest(str(key), names))
