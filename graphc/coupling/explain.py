"""Explain: what can be cut, what stands and falls together, what cannot be cut and why."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from torch.fx import Node

from graphc.axes.axis import Axis, leaves
from graphc.coupling.flow import Analysis, analyze
from graphc.coupling.regions import find_layers
from graphc.ir.graph import module_path
from graphc.ir.program import Program
from graphc.ir.text import operator_name


@dataclass(frozen=True)
class AxisFacts:
    """One axis: its size, where it stands, the ops that couple its members, and what pins it."""

    name: str
    size: int
    roles: list[str]
    mixed: bool
    pinned: str | None
    members: list[tuple[str, int]]
    coupled_by: list[str]


@dataclass(frozen=True)
class LayerFacts:
    """One layer that can be removed: the values at its ends and its parameters."""

    name: str
    entry: str
    exit: str
    params: int


@dataclass(frozen=True)
class Explanation:
    """What one analysis found.

    Attributes:
        axes: in graph order, free and pinned.
        layers: regions that can be removed.
        pins: each reason, and the axes that it pins.
        without_rule: each op that has no rule, and the places where it stands.
        warnings: attention scales that were made from the size of an axis, and stay when it is cut.
    """

    axes: list[AxisFacts]
    layers: list[LayerFacts]
    pins: dict[str, list[str]]
    without_rule: dict[str, list[str]]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def explain(program: Program) -> Explanation:
    """Analyse a program and say what it found."""
    analysis = analyze(program)
    couplers = _couplers(analysis)
    axes = [
        AxisFacts(a.name, a.size, sorted(a.roles), a.mixed, a.pinned, list(a.members), couplers.get(a, []))
        for a in analysis.axes
    ]
    tensors = program.tensors()
    layers = [
        LayerFacts(x.name, x.entry.name, x.exit.name, sum(tensors[t].numel() for t in x.tensors))
        for x in find_layers(analysis)
    ]
    return Explanation(axes, layers, **hindrances(analysis))


def hindrances(analysis: Analysis) -> dict[str, Any]:
    """What keeps axes from being cut, or is to be known before: ``pins``, ``without_rule``, ``warnings``."""
    pins: dict[str, list[str]] = defaultdict(list)
    for axis in analysis.axes:
        if axis.pinned is not None:
            pins[axis.pinned].append(axis.name)
    unknown = {op: [_place(node) for node in nodes] for op, nodes in analysis.unknown.items()}
    return {"pins": dict(pins), "without_rule": unknown, "warnings": _scales(analysis)}


def _scales(analysis: Analysis) -> list[str]:
    """Numbers near an attention that equal 1 / sqrt(size) or sqrt(size) of a free axis."""
    found: dict[tuple[Node, float], str] = {}
    for cost in analysis.costs:
        near = {cost.node, *cost.node.users, *cost.node.all_input_nodes}
        numbers = [(n, x) for n in near for x in (*n.args, *n.kwargs.values()) if isinstance(x, float)]
        for axis in cost.axes if numbers else ():
            free = [] if axis is None else [x for x in leaves(axis) if "head_dim" in x.roles and x.pinned is None]
            for node, number in numbers if free else ():
                if axis is not None and _is_root(number, axis.size):
                    what = f"{number:.6g} in {operator_name(node)} at {_place(node)}"
                    made = f"was made from the size {axis.size} of {free[0].name}"
                    found.setdefault((node, number), f"{what} {made}; it stays what it is when that axis is cut")
    return list(found.values())


def _is_root(number: float, size: int) -> bool:
    """Is a number the square or fourth root of a size, or one over it?"""
    return any(math.isclose(number, float(size) ** power, rel_tol=1e-4) for power in (0.5, -0.5, 0.25, -0.25))


def _couplers(analysis: Analysis) -> dict[Axis, list[str]]:
    """For each axis the ops at which two or more activations that have it meet."""
    found: dict[Axis, dict[str, None]] = defaultdict(dict)
    inside: dict[Node, set[Axis]] = {}
    for node, value in analysis.values.items():
        layout = value if isinstance(value, tuple) else ()
        inside[node] = {x for axis in layout if isinstance(axis, Axis) for x in leaves(axis)}
        sources = [n for n in node.all_input_nodes if n.op == "call_function" and n in inside]
        if len(sources) < 2:
            continue
        seen: set[Axis] = set()
        for source in sources:
            for axis in inside[source] & seen:
                found[axis][f"{operator_name(node)} at {_place(node)}"] = None
            seen |= inside[source]
    return {axis: list(ops) for axis, ops in found.items()}


def _place(node: Node) -> str:
    return module_path(node) or node.name
