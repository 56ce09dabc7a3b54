"""What a rule sees of one node: layouts in, arguments, and the facts it states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, leaf
from graphc.ir.graph import module_path

Value = Any
"""What the flow knows of a node: a Layout, a tuple of Layouts, or an int (a scalar's hint)."""


@dataclass(frozen=True)
class Literal:
    """An argument that repeats the size of axes: it is the sum of their sizes, and ``more``."""

    node: Node
    path: tuple[int | str, ...]
    axes: tuple[Axis | None, ...]
    more: int = 0

    def read(self, node: Node | None = None) -> Any:
        """The argument as it stands in the node, or in a copy of it."""
        value: Any = (node or self.node).args
        for step in self.path:
            value = value[step]
        return value


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of a node: the product of the axes' sizes."""

    node: Node
    axes: tuple[Axis | None, ...]


@dataclass(frozen=True)
class Need:
    """What a node asks of the number of units that are left of an axis: so many at least, and a multiple."""

    node: Node
    axis: Axis
    least: int
    multiple: int

    def holds(self, left: int) -> bool:
        """Is it met by so many units?"""
        return left >= self.least and left % self.multiple == 0


@dataclass(frozen=True)
class Birth:
    """An axis that a node gives a name to."""

    node: Node
    axis: Axis
    role: str


def hint(value: Any) -> int:
    """The number behind an int, or behind a symbolic size at the captured example."""
    if isinstance(value, (int, float)):
        return int(value)
    found = value.node.hint
    return int(found) if found is not None else int(value.node.shape_env.size_hint(value.node.expr, fallback=2))


def positive(dim: int, rank: int) -> int:
    """A dim counted from the front."""
    return dim + rank if dim < 0 else dim


class Operation:
    """One node on its way through the flow. Rules read it and state facts on it."""

    def __init__(self, values: dict[Node, Value]) -> None:
        self.values = values
        self.literals: list[Literal] = []
        self.costs: list[Cost] = []
        self.births: list[Birth] = []
        self.needs: list[Need] = []
        self.numbered: dict[tuple[Node, int], Axis] = {}
        self.asked: set[Node] = set()
        self.node: Node

    def where(self) -> str:
        """The node and its module, for messages."""
        path = module_path(self.node)
        return f"{self.node.name} ({path})" if path else self.node.name

    def arg(self, index: int | str, default: Any = None) -> Any:
        """A positional or keyword argument as written."""
        if isinstance(index, str):
            return self.node.kwargs.get(index, default)
        return self.node.args[index] if index < len(self.node.args) else default

    def layout(self, index: int | str) -> Layout | None:
        """The layout of a tensor argument; None where there is no tensor."""
        value = self.arg(index)
        if not isinstance(value, Node):
            return None
        found = self.values[value]
        return found if isinstance(found, tuple) else None

    def tensor(self, index: int) -> Layout:
        """The layout of an argument that must be a tensor."""
        found = self.layout(index)
        assert found is not None, f"argument {index} of {self.node} is not a tensor"
        return found

    def number(self, value: Any) -> int:
        """A literal, or the hint of a scalar node."""
        return int(self.values[value]) if isinstance(value, Node) else int(value)

    def numbers(self, index: int) -> list[int]:
        """A list argument as numbers."""
        value = self.arg(index)
        return [self.number(v) for v in value] if isinstance(value, (list, tuple)) else [self.number(value)]

    def shape(self, result: int = 0) -> list[int]:
        """Sizes of the result (of one of several) at the captured example."""
        value = self.node.meta["val"]
        return sizes_of(value[result] if isinstance(value, (list, tuple)) else value)

    def fresh(self, size: int, why: str) -> Axis | None:
        """A new axis that must stay whole."""
        return None if size == 1 else leaf(size, f"{why} at {self.where()}")

    def state(self, path: tuple[int | str, ...], *axes: Axis | None, more: int = 0) -> None:
        """Say that the argument at ``path`` is the sum of the sizes of ``axes``, and ``more``."""
        self.literals.append(Literal(self.node, path, axes, more))

    def chosen(self, axis: Axis | None, result: int = 0) -> None:
        """Say that a result holds numbers of an axis's units, found by value: as ``topk`` does.

        Where all ops that read such numbers count units of the same axis by them, it may be cut: then
        among fewer units others are chosen. Any other reader pins it.
        """
        if axis is not None:
            axis.play("choices")
            self.numbered[self.node, result] = axis

    def choice(self, value: Any, result: int = 0) -> Axis | None:
        """The axis whose units the values of an argument number, if they do; the rule takes care of it."""
        if not isinstance(value, Node):
            return None
        self.asked.add(value)
        return self.numbered.get((value, result))

    def is_chosen(self, axis: Axis) -> bool:
        """Are units of this axis chosen by value somewhere before?"""
        return any(axis.root() is known.root() for known in self.numbered.values())

    def need(self, axis: Axis | None, least: int = 1, multiple: int = 1) -> None:
        """Say that at least so many units of an axis must be left, and a multiple of a number."""
        if axis is not None:
            self.needs.append(Need(self.node, axis, least, multiple))

    def cost(self, *axes: Axis | None) -> None:
        """Say that the op takes as many multiply-accumulates as the product of ``axes``."""
        self.costs.append(Cost(self.node, axes))

    def play(self, axis: Axis | None, role: str) -> None:
        """Say what an axis is here: it may be named after this."""
        if axis is not None:
            axis.play(role)
            self.births.append(Birth(self.node, axis, role))

    def inputs(self) -> Sequence[Layout]:
        """Layouts of all tensor inputs, in order."""
        found = (self.values[n] for n in self.node.all_input_nodes)
        return [v for v in found if isinstance(v, tuple) and not (v and isinstance(v[0], tuple))]


def sizes_of(value: torch.Tensor) -> list[int]:
    """A fake tensor's sizes as numbers (symbols by their hints)."""
    return [s if type(s) is int else hint(s) for s in value.shape]
