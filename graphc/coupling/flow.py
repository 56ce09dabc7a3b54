"""One sweep over the graph: apply each op's rule, unify dims, and keep what the rules state."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, factors, leaf, leaves
from graphc.coupling.naming import name_axes
from graphc.ir.graph import attribute
from graphc.ir.program import Program
from graphc.rules import Operation, load_installed_rules, rule_of
from graphc.rules.choice import hand_on
from graphc.rules.operation import Cost, Literal, Need, Value, hint, sizes_of


@dataclass(frozen=True)
class Analysis:
    """What one sweep found.

    Attributes:
        program: the program it describes.
        axes: every leaf axis that some parameter, buffer or constant has, in graph order.
        tensors: the layout of each tensor of the program, by name.
        values: what the flow knows of each node.
        literals: arguments that repeat sizes of axes.
        costs: multiply-accumulates as products of axes.
        needs: how many units of an axis must be left.
        unknown: ops without a rule, and the nodes that use them.
    """

    program: Program
    axes: list[Axis]
    tensors: dict[str, Layout]
    values: dict[Node, Value]
    literals: list[Literal]
    costs: list[Cost]
    needs: list[Need]
    unknown: dict[str, list[Node]] = field(default_factory=dict)


def find_axes(program: Program) -> list[Axis]:
    """All axes of a program that some parameter has: what can be cut, what is coupled, what is pinned.

    Returns:
        Leaf axes in graph order, each with ``name``, ``size``, ``members`` (parameter name, dim),
        ``pinned`` (None, or the reason), ``mixed`` and ``roles``. Analysis takes milliseconds and
        is done anew on every call.
    """
    return analyze(program).axes


def analyze(program: Program) -> Analysis:
    """Run the rules over the program once."""
    load_installed_rules()
    values: dict[Node, Value] = {}
    op = Operation(values)
    tensors: dict[str, Layout] = {}
    unknown: dict[str, list[Node]] = {}
    inputs = iter(program.contract.inputs)
    for node in program.graph.nodes:
        if node.op == "call_function":
            op.node = node
            rule = rule_of(node.target)
            if rule is not None:
                values[node] = rule(op)
            elif node.target is operator.getitem and isinstance(values[node.args[0]], tuple):
                values[node] = values[node.args[0]][node.args[1]]
                op.chosen(op.choice(*node.args))
            else:
                values[node] = _without_rule(op, unknown)
            hand_on(op)
        elif node.op == "get_attr":
            values[node] = _tensor_layout(program, node)
            if isinstance(values[node], tuple):
                tensors[str(node.target)] = values[node]
        elif node.op == "placeholder":
            values[node] = _input_layout(node, next(inputs).name)
        elif node.op == "output":
            op.node = node
            hand_on(op)
            _pin_outputs(program, node, values)
    _pin_mixed_sums(op.literals)
    axes = _members(tensors)
    name_axes(axes, op.births)
    return Analysis(program, axes, tensors, values, op.literals, op.costs, op.needs, unknown)


def _tensor_layout(program: Program, node: Node) -> Value:
    value = attribute(program.module, str(node.target))
    if not isinstance(value, torch.Tensor):
        return None
    why = None
    if isinstance(value, torch.nn.Parameter) and not value.is_floating_point():
        why = f"{node.target} is quantised to {value.dtype}; cut before quantising"
    elif not value.is_floating_point():
        why = f"{node.target} holds {value.dtype}: positions, not units"
    return tuple(None if size == 1 else leaf(size, why) for size in value.shape)


def _input_layout(node: Node, name: str) -> Value:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return hint(value) if isinstance(value, (int, float, torch.SymInt)) else None
    return tuple(
        None if size == 1 else leaf(size, f"dim {i} of input {name}") for i, size in enumerate(sizes_of(value))
    )


def _pin_outputs(program: Program, node: Node, values: Mapping[Node, Value]) -> None:
    results = torch.utils._pytree.tree_leaves(node.args[0])
    for spec, result in zip(program.contract.outputs, results, strict=True):
        layout = values.get(result) if isinstance(result, Node) else None
        for i, axis in enumerate(layout if isinstance(layout, tuple) else ()):
            if axis is not None:
                axis.pin(f"dim {i} of output {spec.name}")


def _without_rule(op: Operation, unknown: dict[str, list[Node]]) -> Value:
    """A scalar is its hint; for any other op the operands' axes are pinned and the result is new."""
    result = op.node.meta.get("val")
    if result is None or isinstance(result, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)):
        scalar = isinstance(result, (int, float, torch.SymInt, torch.SymFloat))
        return hint(result) if scalar else 0
    unknown.setdefault(str(op.node.target), []).append(op.node)
    why = f"no rule for {op.node.target} at {op.where()}"
    for node in op.node.all_input_nodes:
        for axis in _all_axes(op.values[node]):
            axis.pin(why)
    return _fresh(result, why)


def _pin_mixed_sums(literals: Sequence[Literal]) -> None:
    """A size computed from an input that is a sum of free and dynamic parts cannot be restated."""
    for literal in literals:
        if not isinstance(literal.read(), Node):
            continue
        for axis in (part for whole in literal.axes if whole is not None for part in factors(whole)):
            parts = leaves(axis)
            if axis.kind == "sum" and any(part.pinned for part in parts):
                axis.pin(f"its size is part of a sum that {literal.node.name} computes from an input")


def _all_axes(value: Value) -> list[Axis]:
    if isinstance(value, Axis):
        return [value]
    return [axis for part in value for axis in _all_axes(part)] if isinstance(value, tuple) else []


def _fresh(result: Any, why: str) -> Value:
    if isinstance(result, torch.Tensor):
        return tuple(None if size == 1 else leaf(size, why) for size in sizes_of(result))
    if isinstance(result, (list, tuple)):
        return tuple(_fresh(part, why) for part in result)
    return hint(result) if isinstance(result, (int, torch.SymInt)) else None


def _members(tensors: Mapping[str, Layout]) -> list[Axis]:
    """All leaves that tensors have, each told where it stands."""
    found: dict[Axis, None] = {}
    for name, layout in tensors.items():
        for dim, axis in enumerate(layout):
            if axis is None:
                continue
            for part in leaves(axis):
                if part.size > 1:
                    found[part] = None
                    if not part.members or part.members[-1] != (name, dim):
                        part.members.append((name, dim))
    return list(found)
