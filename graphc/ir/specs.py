"""Reading the contract off a graph: names, dtypes and dynamic dims of inputs and outputs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph
from torch.utils import _pytree as pytree

from graphc.errors import VerifyError
from graphc.ir.contract import Contract, TensorSpec

KEEP = "a pass keeps inputs and outputs as they are, or says in `promises` what it makes of them"


def names_of_symbols(graph: Graph, shapes: Mapping[str, Any] | None) -> dict[str, str]:
    """The user's names for the graph's size symbols; a symbol without a name keeps its own.

    Without ``shapes`` (an ExportedProgram has forgotten its names) the first input's dim 0 is ``batch``.
    """
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    wanted = pytree.tree_leaves(shapes, is_leaf=is_dims) if shapes is not None else [{0: "batch"}]
    if shapes is None:
        placeholders = [n for n in placeholders if isinstance(n.meta.get("val"), torch.Tensor) and n.meta["val"].dim()]
    names: dict[str, str] = {}
    for node, dims in zip(placeholders, wanted, strict=False):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and isinstance(dims, Mapping):
            for dim, name in dims.items():
                size = value.shape[int(dim)]
                if (symbol := _symbol(size)) is not None:
                    names[symbol] = str(name)
    return names


def is_dims(value: Any) -> bool:
    """Is this the dynamic dims of one tensor, names by dim, or None?"""
    return value is None or (isinstance(value, Mapping) and all(isinstance(k, int) for k in value))


def describe_contract(
    graph: Graph,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shapes: Mapping[str, Any] | None,
    symbols: Mapping[str, str],
) -> Contract:
    """The contract of a freshly captured graph."""
    inputs = tuple(spec_of(str(n.target), n.meta.get("val"), symbols) for n in graph.nodes if n.op == "placeholder")
    outputs = outputs_of(graph, symbols)
    dynamic = dict(shapes) if shapes is not None else _dynamic_of(graph, symbols)
    return Contract(inputs, outputs, tuple(args), dict(kwargs), dynamic)


def _dynamic_of(graph: Graph, symbols: Mapping[str, str]) -> dict[str, Any]:
    """Dynamic dims by input, from the symbols of the placeholders."""
    found: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor):
            spec = spec_of(str(node.target), node.meta["val"], symbols)
            found[spec.name] = {i: d for i, d in enumerate(spec.shape) if isinstance(d, str)}
    return found


def outputs_of(graph: Graph, symbols: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """Specs of a graph's outputs, named by their place in the output's pytree."""
    values = pytree.tree_leaves(graph.output_node().args[0])
    names = output_names(graph)
    return tuple(
        spec_of(name, node.meta.get("val") if hasattr(node, "meta") else node, symbols)
        for name, node in zip(names, values, strict=True)
    )


def output_names(graph: Graph) -> list[str]:
    """``logits`` for a field, ``output_0`` for a place in a tuple, ``output`` for a single tensor."""
    info = getattr(graph._codegen, "pytree_info", None)
    spec = info.out_spec if info is not None else None
    if spec is None:
        return ["output"]
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    words = ["_".join(re.findall(r"\w+", path)) for path in paths]
    return [f"output_{w}" if w.isdigit() else w or "output" for w in words]


def spec_of(name: str, value: Any, symbols: Mapping[str, str]) -> TensorSpec:
    """The spec of one value; symbols are written with the user's names."""
    if not isinstance(value, torch.Tensor):
        return TensorSpec(name, None, ())
    return TensorSpec(name, value.dtype, tuple(_dim(size, symbols) for size in value.shape))


def _symbol(size: Any) -> str | None:
    """The expression of a dynamic size; None for a number."""
    return None if type(size) is int else str(size.node.expr)


def _dim(size: Any, symbols: Mapping[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    expression = str(size.node.expr)
    return symbols.get(expression) or re.sub(r"\w+", lambda m: symbols.get(m.group(), m.group()), expression)


def symbols_of(graph: Graph, contract: Contract) -> dict[str, str]:
    """The names that a contract has for the symbols of its graph."""
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    names: dict[str, str] = {}
    for node, spec in zip(placeholders, contract.inputs, strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            for size, dim in zip(value.shape, spec.shape, strict=True):
                if isinstance(dim, str) and (symbol := _symbol(size)) is not None:
                    names[symbol] = dim
    return names


def check_contract(graph: Graph, promised: Contract) -> None:
    """Inputs and outputs are what the contract says.

    Raises:
        VerifyError: names the input or output that changed, before and after.
    """
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    results = pytree.tree_leaves(graph.output_node().args[0])
    _check_number("input", [s.name for s in promised.inputs], [str(n.target) for n in placeholders])
    _check_number("output", [s.name for s in promised.outputs], [str(r) for r in results])
    symbols = symbols_of(graph, promised)
    inputs = tuple(spec_of(str(n.target), n.meta.get("val"), symbols) for n in placeholders)
    outputs = outputs_of(graph, symbols)
    outputs = tuple(map(_with_kept_name, outputs, promised.outputs))
    check_specs("input", promised.inputs, inputs)
    check_specs("output", promised.outputs, outputs)


def check_specs(kind: str, promised: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
    """Inputs, or outputs, are what was promised.

    Raises:
        VerifyError: names the first that is not, before and after.
    """
    _check_number(kind, [s.name for s in promised], [s.name for s in found])
    for old, new in zip(promised, found, strict=True):
        if old != new:
            raise VerifyError(
                f"the {kind} {old.name!r} is no longer what it was", why=f"{old} before, {new} now", hint=KEEP
            )


def _check_number(kind: str, before: list[str], after: list[str]) -> None:
    if len(before) != len(after):
        why = f"{len(before)} before ({', '.join(before)}), {len(after)} now ({', '.join(after)})"
        raise VerifyError(f"the number of {kind}s changed", why=why, hint=KEEP)


def is_place(name: str) -> bool:
    """Is this the name of an output that has no word, but a place in a tuple?"""
    return re.fullmatch(r"output(_\d+)+", name) is not None


def _with_kept_name(found: TensorSpec, promised: TensorSpec) -> TensorSpec:
    """An output of a tuple is called by the place that it had when captured, though others before it may be gone."""
    return dataclasses.replace(found, name=promised.name) if is_place(found.name) and is_place(promised.name) else found
