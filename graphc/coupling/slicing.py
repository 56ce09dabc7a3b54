"""Slice and mask: remove units of axes, or zero them. Both come from the same analysis.

A slice takes the remaining positions of every tensor dim that has the axis, then restates every
argument that repeats its size. A mask zeroes the removed units of every parameter: on an axis
that is not mixed it computes what the slice computes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.axes.axis import Axis, leaves, measure, positions
from graphc.coupling.flow import Analysis, analyze
from graphc.errors import SliceError, nearest
from graphc.ir.edit import rebuild, replace
from graphc.ir.graph import copy_graph, source_line
from graphc.ir.program import Program
from graphc.ir.resizing import Resizing
from graphc.ir.text import operator_name
from graphc.rules.operation import Literal

Kept = Mapping[Axis, Sequence[int]] | Mapping[str, Sequence[int]] | Mapping[Axis | str, Sequence[int]]


def slice(program: Program, kept: Kept, note: str | None = None) -> Program:
    """Remove units of axes: the graph gets smaller tensors and the sizes that go with them.

    Args:
        program: stays as it is.
        kept: for each axis (or its name) the indices of the units that stay, in their new order.
        note: what to add to the program's history.

    Raises:
        SliceError: an axis is pinned (says by what), is not known, would lose all its units, or an
            index is out of range or given twice.
    """
    analysis = analyze(program)
    chosen = resolve(analysis, kept)
    graph = copy_graph(program.graph)
    _restate(graph, analysis, chosen)
    return replace(program, graph, _cut_tensors(program, analysis, chosen), note, Resizing)


def mask(program: Program, kept: Kept) -> Program:
    """Zero the units that ``slice`` would remove, in every parameter that has them.

    The result computes what the sliced program computes, on every axis that is not mixed. It is
    the reference for a slice, and a cheap way to see what a cut would do.

    Raises:
        SliceError: as ``slice`` does.
    """
    analysis = analyze(program)
    chosen = resolve(analysis, kept)
    tensors = program.tensors()
    masked: dict[str, torch.Tensor] = {}
    for name, layout in analysis.tensors.items():
        value = tensors[name]
        if not isinstance(value, torch.nn.Parameter):
            continue
        for dim, axis in enumerate(layout):
            if axis is not None and any(x in chosen for x in leaves(axis)):
                keep = torch.zeros(value.shape[dim], dtype=torch.bool)
                keep[positions(axis, chosen)] = True
                shape = [-1 if i == dim else 1 for i in range(value.dim())]
                value = value.detach() * keep.to(value.device).view(shape).to(value.dtype)
        if value is not tensors[name]:
            masked[name] = torch.nn.Parameter(value, tensors[name].requires_grad)
    return rebuild(program, tensors=masked)


def resolve(analysis: Analysis, kept: Kept) -> dict[Axis, list[int]]:
    """Check a request and give it in terms of this analysis's own axes."""
    known = {axis.name: axis for axis in analysis.axes}
    chosen: dict[Axis, list[int]] = {}
    for given, units in kept.items():
        name = given.name if isinstance(given, Axis) else given
        axis = known.get(name)
        what = f"cannot slice the axis {name!r}"
        if axis is None:
            raise SliceError(what, why="the program has no such axis", hint=nearest(name, known))
        if isinstance(given, Axis) and given.size != axis.size:
            why = f"it has {axis.size} units here and had {given.size} where it was found"
            raise SliceError(what, why=why, hint="find the axes of this program again")
        if axis.pinned is not None:
            hint = "choose another axis; `graphc explain` lists those that are free"
            raise SliceError(what, where=_members_text(axis), why=f"it is pinned: {axis.pinned}", hint=hint)
        indices = [int(i) for i in units]
        if not indices:
            hint = "remove the whole block instead (prune-layers)"
            raise SliceError(what, why="none of its units would be left", hint=hint)
        wrong = [i for i in indices if not 0 <= i < axis.size]
        if wrong or len(set(indices)) != len(indices):
            why = f"unit {wrong[0]} does not exist" if wrong else "a unit is given twice"
            raise SliceError(what, why=why, hint=f"give distinct indices from 0 to {axis.size - 1}")
        if indices != list(range(axis.size)):
            chosen[axis] = indices
    _check_needs(analysis, chosen)
    return chosen


def _check_needs(analysis: Analysis, chosen: Mapping[Axis, Sequence[int]]) -> None:
    sizes = {axis: len(units) for axis, units in chosen.items()}
    for need in analysis.needs:
        left = measure(need.axis, sizes)
        cut = ", ".join(repr(axis.name) for axis in leaves(need.axis) if axis in sizes)
        if cut and not need.holds(left):
            multiple = f", and a multiple of {need.multiple}" if need.multiple > 1 else ""
            raise SliceError(
                f"cannot slice {cut} to {left} units",
                where=f"{need.node.name}, {source_line(need.node)}",
                why=f"{operator_name(need.node)} takes at least {need.least}{multiple}",
                hint=f"keep at least {need.least}{multiple}",
            )


def _members_text(axis: Axis) -> str:
    shown = ", ".join(f"{name} dim {dim}" for name, dim in axis.members[:4])
    return shown + (f" and {len(axis.members) - 4} more" if len(axis.members) > 4 else "")


def _cut_tensors(program: Program, analysis: Analysis, chosen: Mapping[Axis, Sequence[int]]) -> dict[str, torch.Tensor]:
    tensors = program.tensors()
    smaller: dict[str, torch.Tensor] = {}
    where: dict[Axis, torch.Tensor | None] = {}
    for name, layout in analysis.tensors.items():
        whole = value = tensors[name].detach()
        for dim, axis in enumerate(layout):
            if axis is None:
                continue
            root = axis.root()
            if root not in where:
                where[root] = positions(root, chosen) if any(x in chosen for x in leaves(root)) else None
            index = where[root]
            if index is not None:
                value = value.index_select(dim, index.to(value.device))
        if value is not whole:
            trainable = isinstance(tensors[name], torch.nn.Parameter)
            smaller[name] = torch.nn.Parameter(value, tensors[name].requires_grad) if trainable else value
    return smaller


def _restate(graph: Graph, analysis: Analysis, chosen: Mapping[Axis, Sequence[int]]) -> None:
    """Every argument that repeats the size of a cut axis gets the new size."""
    sizes = {axis: len(units) for axis, units in chosen.items()}
    nodes = dict(zip(analysis.program.graph.nodes, graph.nodes, strict=True))
    for literal in analysis.literals:
        if not any(leaf in sizes for axis in literal.axes if axis is not None for leaf in leaves(axis)):
            continue
        node = nodes[literal.node]
        old = sum(measure(axis, {}) for axis in literal.axes)
        new = sum(measure(axis, sizes) for axis in literal.axes) + literal.more
        _set(node, literal, _resized(graph, node, literal.read(node), old, new))


def _set(node: Node, literal: Literal, new: Any) -> None:
    def put(value: Any, path: tuple[int | str, ...]) -> Any:
        if not path:
            return new
        return type(value)(put(v, path[1:]) if i == path[0] else v for i, v in enumerate(value))

    node.args = put(tuple(list(a) if isinstance(a, (list, tuple)) else a for a in node.args), literal.path)


def _resized(graph: Graph, node: Node, value: Any, old: int, new: int) -> Any:
    """A literal becomes the new size; a scalar is what it was, times new over old."""
    if not isinstance(value, Node):
        return new
    with graph.inserting_before(node):
        scaled = graph.call_function(operator.mul, (value, new))
        return graph.call_function(operator.floordiv, (scaled, old))
