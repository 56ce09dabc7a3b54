"""Binding inputs: a Program in which an input is a constant, and what follows from it is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from graphc.errors import GraphError, nearest
from graphc.ir.absorb import absorb
from graphc.ir.contract import Bound, Contract, TensorSpec
from graphc.ir.edit import replace
from graphc.ir.graph import copy_graph, drop_dead
from graphc.ir.program import Program
from graphc.ir.sizes import Sizes
from graphc.ir.uniform import fold

Value = bool | int | float | list[Any] | torch.Tensor
"""A number that fills the input, numbers in lists, or a tensor of the input's dtype."""


def bind_input(program: Program, name: str, value: Value, note: str | None = None) -> Program:
    """A new Program whose input is a constant. It computes what the old one does for that value.

    Whatever follows from the constant alone is computed now: what an embedding has at a fixed index becomes a
    vector that is added, and that becomes part of a table or bias that is added there anyway (``absorb``). Sizes that
    were read off the input are read off others.

    Args:
        program: is left as it is.
        name: of the input.
        value: must broadcast to the input: of size 1, or absent, where that is dynamic.
        note: what to add to the history.

    Raises:
        GraphError: there is no such input, it is the only one or a part of one, or the value does not fit.
    """
    contract = without_input(program.contract, name, value)
    bound = contract.bound[-1]
    graph = copy_graph(program.graph)
    old = [n for n in program.graph.nodes if n.op == "placeholder"][bound.place]
    new = next(n for n in graph.nodes if n.name == old.name)
    sizes = Sizes(graph, without=new)
    tensors = fold(program, graph, old, bound.value, sizes)
    drop_dead(graph)
    graph.erase_node(new)
    graph.set_codegen(_without(graph, bound.place))
    made = replace(program, graph, tensors, note)
    return absorb(dataclasses.replace(made, contract=contract), tensors)


def without_input(contract: Contract, name: str, value: Value) -> Contract:
    """The contract without an input, which is a constant from then on.

    Raises:
        GraphError: as ``bind_input``.
    """
    names = [spec.name for spec in contract.inputs]
    what = f"cannot bind the input {name!r}"
    if name not in names:
        taken = any(one.spec.name == name for one in contract.bound)
        why = "it is a constant already" if taken else "there is no such input"
        raise GraphError(what, why=why, hint=nearest(name, names))
    place = names.index(name)
    others = [spec for spec in contract.inputs if spec.name != name]
    if not any(spec.dtype is not None for spec in others):
        raise GraphError(what, why="it is the only input", hint="a program without inputs is a constant")
    spec = contract.inputs[place]
    constant = _constant(spec, value, what)
    known = {dim for other in others for dim in other.shape}
    for dim in spec.shape:
        if isinstance(dim, str) and dim not in known:
            why = f"no other input has its dynamic dim {dim!r}, so nothing would say how large that is"
            raise GraphError(what, why=why, hint=f"capture with {dim!r} fixed: leave it out of `dynamic`")
    args, kwargs = _left_out(contract.args, contract.kwargs, place, what)
    return dataclasses.replace(
        contract,
        inputs=tuple(others),
        args=args,
        kwargs=kwargs,
        dynamic={key: dims for key, dims in contract.dynamic.items() if key != name},
        bound=(*contract.bound, Bound(spec, place, constant)),
    )


def inputs_of(
    whole: Contract, part: Contract, args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of one program as another takes them, which may still have inputs that are constants in the first.

    Args:
        whole: of the program that is to take them.
        part: of the program that they are for.
        args, kwargs: in the structure of ``part``.
        given: values of its bound inputs, where something else than the constant is known.
    """
    own = dict(zip((s.name for s in part.inputs), pytree.tree_leaves((args, dict(kwargs))), strict=True))
    if [s.name for s in whole.inputs] == list(own):
        return args, dict(kwargs)
    sizes = {dim: own[s.name].shape[i] for s in part.inputs for i, dim in enumerate(s.shape) if isinstance(dim, str)}
    device = next(v.device for v in own.values() if isinstance(v, torch.Tensor))
    constants = {
        one.spec.name: one.value.to(device).expand(
            [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in one.spec.shape]
        )
        for one in part.bound
    }
    leaves, tree = pytree.tree_flatten((whole.args, dict(whole.kwargs)))
    values = {**constants, **given, **own}
    found = [values.get(spec.name, leaf) for spec, leaf in zip(whole.inputs, leaves, strict=True)]
    taken: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(found, tree)
    return taken


def _constant(spec: TensorSpec, value: Value, what: str) -> torch.Tensor:
    """The value as a tensor of the input's dtype and number of dims.

    Raises:
        GraphError: it is of another dtype, or does not broadcast to the input.
    """
    if spec.dtype is None:
        raise GraphError(what, why="it is no tensor, and a constant already")
    try:
        given = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GraphError(what, why=f"the value is no tensor: {next(iter(str(error).splitlines()), '')}") from error
    if not _is_of(given, spec.dtype, exactly=isinstance(value, torch.Tensor)):
        word = str(given.dtype).removeprefix("torch.")
        raise GraphError(what, why=f"the input is {spec}, the value is {word} and not all of it is such a number")
    shape = (1,) * (len(spec.shape) - given.dim()) + tuple(given.shape)
    fits = len(shape) == len(spec.shape) and all(
        size == 1 or size == dim for size, dim in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        why = f"the input is {spec}, the value is of shape {list(given.shape)}, which does not broadcast to it"
        hint = "a constant has size 1 where the input is dynamic; a single number fills all of it"
        raise GraphError(what, why=why, hint=hint)
    return given.to(spec.dtype).reshape(shape).clone()


def _is_of(value: torch.Tensor, dtype: torch.dtype, exactly: bool) -> bool:
    """Is it of this dtype, or are its numbers written in a recipe all of this dtype?"""
    if exactly or value.dtype == dtype:
        return value.dtype == dtype
    if dtype.is_floating_point or dtype.is_complex:
        return value.dtype != torch.bool
    whole = not value.is_floating_point() and not value.is_complex()
    return whole and torch.equal(value.to(dtype).to(value.dtype), value)


def _left_out(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int, what: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs without that at a place.

    Raises:
        GraphError: it is only a part of an argument.
    """
    index = _argument(pytree.tree_structure((args, dict(kwargs))), place)
    if index is None:
        why = "it is part of an argument that has several tensors"
        raise GraphError(what, why=why, hint="only whole arguments can be bound: wrap the model so that it is one")
    key = index if isinstance(index, str) else None
    left = tuple(value for i, value in enumerate(args) if i != index)
    return left, {name: value for name, value in kwargs.items() if name != key}


def _argument(spec: pytree.TreeSpec, place: int) -> int | str | None:
    """The position or the name of the argument that is the leaf at a place; None if it is in an argument."""
    args, kwargs = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    both = [*enumerate(args), *kwargs.items()]
    return next((key for key, leaf in both if isinstance(leaf, int) and leaf == place), None)


def _without(graph: Graph, place: int) -> _PyTreeCodeGen:
    """The calling convention without the argument at a place."""
    info: Any = graph._codegen.pytree_info  # type: ignore[attr-defined] # every program has one
    index = _argument(info.in_spec, place)
    args, kwargs = pytree.tree_unflatten(list(range(info.in_spec.num_leaves)), info.in_spec)
    at = index if isinstance(index, int) else len(args) + list(kwargs).index(index)
    left = tuple(v for i, v in enumerate(args) if i != index), {k: v for k, v in kwargs.items() if k != index}
    names = [name for i, name in enumerate(info.orig_args) if i != at]
    return _PyTreeCodeGen(info._replace(orig_args=names, in_spec=pytree.tree_structure(left)))
