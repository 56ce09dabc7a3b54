"""From a Program back to torch.export: the common step of every format."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphc.errors import EmitError
from graphc.ir.contract import Contract
from graphc.ir.edit import rebuild
from graphc.ir.graph import copy_graph
from graphc.ir.program import Program
from graphc.ir.quantized import MEANING, in_aten
from graphc.ir.tracing import trace


def export(module: torch.nn.Module, contract: Contract) -> ExportedProgram:
    """Trace a module with a contract's example inputs and dynamic dims.

    Raises:
        EmitError: torch.export refuses it.
    """
    try:
        return trace(module, contract.args, contract.kwargs, _without_expressions(dynamic_names(module, contract)))
    except Exception as error:
        raise EmitError(
            "torch.export cannot trace the program again",
            why=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            hint="the last pass left something that torch.export refuses; emit the program before it to see which",
        ) from error


def in_plain_ops(program: Program) -> Program:
    """The program without ops that only graphc has: integers are made and read by arithmetic."""
    own = any(node.target in MEANING for node in program.graph.nodes)
    return rebuild(program, in_aten) if own else program


def dynamic_names(module: torch.nn.Module, contract: Contract) -> dict[str, Any]:
    """torch.export's ``dynamic_shapes`` from the input specs, with names in place of Dim objects."""
    leaves, tree = pytree.tree_flatten((contract.args, dict(contract.kwargs)))
    found: list[Any] = []
    for spec, value in zip(contract.inputs, leaves, strict=True):
        dims = {i: dim for i, dim in enumerate(spec.shape) if isinstance(dim, str)}
        found.append(_Dims(dims) if isinstance(value, torch.Tensor) else None)
    args, kwargs = pytree.tree_unflatten(found, tree)
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return {
        name: pytree.tree_map(lambda leaf: leaf.dims if isinstance(leaf, _Dims) else leaf, value)
        for name, value in named.items()
    }


def _without_expressions(shapes: Any) -> Any:
    """A dim that is an expression of others (``2*batch``) is left for torch.export to find."""
    if isinstance(shapes, str):
        return shapes if shapes.isidentifier() else Dim.AUTO
    if isinstance(shapes, dict):
        return {key: _without_expressions(value) for key, value in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        return type(shapes)(_without_expressions(value) for value in shapes)
    return shapes


class _Dims:
    """Dims of one tensor: a leaf to pytree, unlike the dict in it."""

    def __init__(self, dims: dict[int, Any]) -> None:
        self.dims = dims


def with_plain_outputs(program: Program) -> GraphModule:
    """The program's module, returning dicts, tuples, lists and tensors only.

    A field class such as Hugging Face's ModelOutput becomes a dict of its fields, so that no class
    is needed where the artifact is used. Tensors are shared with the program.
    """
    graph = copy_graph(program.graph)
    info = getattr(graph._codegen, "pytree_info", None)
    if info is not None and info.out_spec is not None:
        spec = pytree.tree_structure(plain(pytree.tree_unflatten([_Leaf()] * info.out_spec.num_leaves, info.out_spec)))
        graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(info.orig_args, info.in_spec, spec)))
    module = GraphModule(program.module, graph, "Program")  # in this order, unlike from a dict
    tensors = program.tensors()
    for name, value in own_memory(tensors).items():
        if value is not tensors[name]:
            path, _, last = name.rpartition(".")
            setattr(module.get_submodule(path), last, value)
    return module


def own_memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, those that are part of a larger memory or share it as contiguous copies."""
    seen: set[int] = set()
    own: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.numel() * value.element_size():
            copy = value.detach().clone(memory_format=torch.contiguous_format)
            value = torch.nn.Parameter(copy, value.requires_grad) if isinstance(value, torch.nn.Parameter) else copy
        elif storage.nbytes():
            seen.add(storage.data_ptr())
        own[name] = value
    return own


class _Leaf:
    """Stands for an output."""


def plain(value: Any) -> Any:
    """A pytree of leaves with its field classes turned into dicts."""
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if pytree.tree_structure(value).is_leaf():
        return value
    raise EmitError(
        "an output is of a class that no artifact can express",
        where=type(value).__name__,
        hint="return tensors, tuples, lists or dicts from the model (Hugging Face: use_cache=False)",
    )
