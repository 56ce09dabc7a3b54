"""Stored: a program as tensors and JSON, read back exactly onto the program that it was made from.

Artifacts are traced anew when they are read, which numbers values anew and says ops in others. What is kept
here is the graph itself: nodes by name, arguments, module paths, source lines, masks, quantised ops. Sizes
that vary have symbols, which only the captured program has: its inputs stand in for those of the stored one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.nn import Parameter
from torch.utils import _pytree as pytree

from graphc.emitters.trust import check_tree
from graphc.emitters.words import WordError, meant, target_meant, target_word, word
from graphc.errors import GraphError
from graphc.ir.contract import Bound, Contract, TensorSpec
from graphc.ir.graph import assemble, attribute
from graphc.ir.program import Program
from graphc.ir.shapes import kind
from graphc.ir.verify import verify

COMPUTED = ("val", "tensor_meta", "from_node", "unbacked_bindings")
"""Metadata that is computed again, or that is of a trace alone."""
ORIGINAL = "original"
PARAMETER, BUFFER, UNUSED, INPUT = "parameter", "buffer", "unused", "input"

SPECS = ("inputs", "outputs", "dropped")
"""Fields of a contract that are specs."""

Tensors = dict[str, torch.Tensor]


def stored(program: Program, original: Program) -> tuple[dict[str, Any], Tensors]:
    """A program as a JSON-able record and tensors by key.

    Args:
        program: made from ``original`` by passes.
        original: as it was captured.

    Raises:
        GraphError: it cannot be read back exactly; says what has no word.
    """
    record, tensors = _written(program, original)
    again, _ = _graph(json.loads(json.dumps(record)), tensors, original)
    for node, known in zip(again.nodes, record["nodes"], strict=True):
        if _words(node) != {key: known[key] for key in _words(node)}:
            raise WordError("the program cannot be read back exactly", where=node.name)
    return record, tensors


def _written(program: Program, original: Program) -> tuple[dict[str, Any], Tensors]:
    tensors: Tensors = {}
    contract = program.contract
    record = {
        "nodes": [_node(node, original, tensors, program) for node in program.graph.nodes],
        "calling": _calling(program, original),
        "training": program.module.training,
        "parameters": [name for name, _ in program.module.named_parameters(remove_duplicate=False)],
        "aliases": dict(program.aliases),
        "history": list(program.history),
        "unused": [_keep(tensors, f"{UNUSED}/{name}", value) for name, value in program.unused.items()],
        **{key: _specs(getattr(contract, key)) for key in SPECS},
        "bound": [
            [_specs([one.spec]), one.place, _keep(tensors, f"{INPUT}/bound.{i}", one.value)]
            for i, one in enumerate(contract.bound)
        ],
        "example": _example(contract, original.contract, tensors),
        "dynamic": word(dict(contract.dynamic)),
        "text": str(program),
    }
    return record, tensors


def _specs(specs: Sequence[TensorSpec]) -> Any:
    return word([dataclasses.astuple(spec) for spec in specs])


def _read_specs(words: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*found) for found in meant(words, {}))


def _words(node: Node) -> dict[str, Any]:
    return {
        "op": node.op,
        "name": node.name,
        "target": target_word(node),
        "args": word(tuple(node.args)),
        "kwargs": word(dict(node.kwargs)),
        "meta": word({key: value for key, value in node.meta.items() if key not in COMPUTED}),
    }


def _node(node: Node, original: Program, tensors: Tensors, program: Program) -> dict[str, Any]:
    known = _words(node)
    if node.op == "get_attr":
        value = attribute(program.module, str(node.target))
        if not isinstance(value, torch.Tensor):
            raise WordError("a value that is no tensor cannot be kept", where=str(node.target))
        role = PARAMETER if isinstance(value, Parameter) else BUFFER
        known["tensor"] = _keep(tensors, f"{role}/{node.target}", value)
    if node.op == "placeholder":
        given = _placeholder(str(node.target), original)
        if kind(given.meta.get("val")) != kind(node.meta.get("val")):
            raise WordError("an input is no longer that of the captured program", where=str(node.target))
    return known


def _keep(tensors: Tensors, key: str, value: torch.Tensor) -> dict[str, Any]:
    """Put a tensor among the others; how it lies in memory."""
    if value.is_meta or value.layout is not torch.strided or type(value) not in (torch.Tensor, Parameter):
        raise WordError("a tensor that is not in plain memory cannot be kept", where=key)
    tensors[key] = value
    return {"key": key, "stride": list(value.stride()), "device": str(value.device), "grad": value.requires_grad}


def _taken(word: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The tensor that ``_keep`` told of."""
    value = tensors[word["key"]].detach()
    if list(value.stride()) != word["stride"]:
        value = torch.empty_strided(value.shape, word["stride"], dtype=value.dtype).copy_(value)
    value = value.to(word["device"])
    role = word["key"].partition("/")[0]
    return Parameter(value, word["grad"]) if role in (PARAMETER, UNUSED) else value.requires_grad_(word["grad"])


def _placeholder(name: str, original: Program) -> Node:
    for node in original.graph.nodes:
        if node.op == "placeholder" and node.target == name:
            found: Node = node
            return found
    raise WordError("an input is none of the captured program", where=name)


def _pytrees(program: Program) -> _PyTreeInfo | None:
    found: _PyTreeInfo | None = getattr(program.graph._codegen, "pytree_info", None)
    return found


def _calling(program: Program, original: Program) -> Any:
    """How the graph takes inputs and gives outputs: as the captured one does, or in structures of its own."""
    own, first = _pytrees(program), _pytrees(original)
    if own is None:
        return None
    trees = []
    for tree, other in ((own.in_spec, first and first.in_spec), (own.out_spec, first and first.out_spec)):
        same = tree is None or tree == other
        trees.append(None if tree is None else ORIGINAL if same else pytree.treespec_dumps(tree))
    return [list(own.orig_args), *trees]


def _example(contract: Contract, first: Contract, tensors: Tensors) -> Any:
    """The example inputs; those of the captured program need not be kept."""
    leaves, tree = pytree.tree_flatten((contract.args, dict(contract.kwargs)))
    given, other = pytree.tree_flatten((first.args, dict(first.kwargs)))
    if tree == other and all(a is b for a, b in zip(leaves, given, strict=True)):
        return ORIGINAL
    words = [
        _keep(tensors, f"{INPUT}/{i}", leaf) if isinstance(leaf, torch.Tensor) else word([leaf])
        for i, leaf in enumerate(leaves)
    ]
    return [pytree.treespec_dumps(tree), words]


def read(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], original: Program) -> Program:
    """The program of a record; what it calls is looked up, and nothing is imported or evaluated.

    Args:
        record: what ``stored`` gave.
        tensors: by key.
        original: the captured program that it was made from.

    Raises:
        GraphError: the record is damaged, or of another captured program.
    """
    try:
        return _read(record, tensors, original)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise GraphError("the stored program cannot be read", why=why.splitlines()[0]) from error


def _read(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], original: Program) -> Program:
    graph, values = _graph(record, tensors, original)
    module = assemble(graph, values)
    module.train(record["training"])
    unused: dict[str, Any] = {w["key"].partition("/")[2]: _taken(w, tensors) for w in record["unused"]}
    contract = _contract(record, tensors, original)
    program = Program(module, contract, dict(record["aliases"]), tuple(record["history"]), unused)
    verify(program)
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    if str(program) != record["text"] or names != record["parameters"]:
        raise WordError("the stored program is not what it was", why="its text differs")
    return program


def _graph(
    record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], original: Program
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The graph of a record, and its tensors by name."""
    graph = Graph()
    nodes: dict[str, Node] = {}
    values: dict[str, torch.Tensor] = {}
    for known in record["nodes"]:
        op, name = known["op"], known["name"]
        if op not in ("placeholder", "get_attr", "call_function", "output"):
            raise WordError("there is no such kind of node", where=f"{name}: {op}")
        target = target_meant(known["target"]) if op == "call_function" else known["target"]
        args, kwargs = meant(known["args"], nodes), meant(known["kwargs"], nodes)
        node = nodes[name] = graph.create_node(op, target, args, kwargs, name)
        node.meta = meant(known["meta"], nodes)
        if node.name != name:
            raise WordError("a name stands twice", where=name)
        if op == "placeholder":
            node.meta["val"] = _placeholder(target, original).meta.get("val")
        if op == "get_attr":
            values[target] = _taken(known["tensor"], tensors)
    _set_calling(graph, record["calling"], original)
    return graph, values


def _set_calling(graph: Graph, calling: Any, original: Program) -> None:
    if calling is None:
        return
    names, *trees = calling
    first = _pytrees(original)
    own = (first.in_spec, first.out_spec) if first is not None else (None, None)
    found: list[Any] = [
        given if tree == ORIGINAL else tree and _tree(tree) for tree, given in zip(trees, own, strict=True)
    ]
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, *found)))


def _tree(text: str) -> pytree.TreeSpec:
    check_tree(text, Path("cache"))
    return pytree.treespec_loads(text)


def _contract(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], original: Program) -> Contract:
    args, kwargs = original.example()
    if record["example"] != ORIGINAL:
        tree, words = record["example"]
        leaves = [meant(w, {})[0] if isinstance(w, list) else _taken(w, tensors) for w in words]
        args, kwargs = pytree.tree_unflatten(leaves, _tree(tree))
    bound = tuple(Bound(_read_specs(spec)[0], place, _taken(value, tensors)) for spec, place, value in record["bound"])
    found = {key: _read_specs(record[key]) for key in SPECS}
    return Contract(args=tuple(args), kwargs=kwargs, dynamic=meant(record["dynamic"], {}), bound=bound, **found)
