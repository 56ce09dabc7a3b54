"""Axes: what a tensor's dimension is made of.

An axis is a leaf with a size, a product ``(g o)`` of axes (outer first) or a sum ``(q + k + v)``.
Leaves refine: when a leaf is found to be a product, a sum or another leaf, it points to that
expression from then on, and every tensor that has it sees the refinement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch

Kind = Literal["leaf", "product", "sum"]


class Axis:
    """One axis of a program, or an expression over axes.

    Attributes:
        size: number of units.
        kind: ``leaf``, ``product`` or ``sum``.
        parts: the factors (outer first) or terms of an expression; empty for a leaf.
        pinned: None, or the reason why the axis cannot be cut (leaves only).
        mixed: True if some op normalises or averages over the axis (leaves only).
        roles: what the axis is to the ops that meet it: ``filters``, ``width``, ``heads``, ...
        name: unique within one analysis; empty until the analysis names it.
        aliases: the names of all places where it is made; a coupled axis is made in several.
        members: ``(parameter name, dim)`` of every tensor dim that the axis is part of.
    """

    __slots__ = ("aliases", "kind", "members", "mixed", "name", "parent", "parts", "pinned", "roles", "size")

    def __init__(self, size: int, kind: Kind = "leaf", parts: tuple[Axis, ...] = ()) -> None:
        self.size = size
        self.kind = kind
        self.parts = parts
        self.parent: Axis | None = None
        self.pinned: str | None = None
        self.mixed = False
        self.roles: frozenset[str] = frozenset()
        self.name = ""
        self.aliases: list[str] = []
        self.members: list[tuple[str, int]] = []

    def __repr__(self) -> str:
        return f"Axis({self.name or describe(self)}, {self.size})"

    def root(self) -> Axis:
        """What this axis has become."""
        axis = self
        while axis.parent is not None:
            axis = axis.parent
        if axis is not self:
            self.parent = axis
        return axis

    def pin(self, why: str) -> None:
        """Forbid cutting; the first reason stays."""
        for leaf in leaves(self):
            if leaf.pinned is None:
                leaf.pinned = why

    def mix(self) -> None:
        """Say that some op normalises or averages over this axis."""
        for leaf in leaves(self):
            leaf.mixed = True

    def play(self, role: str) -> None:
        """Add a role to every leaf."""
        for leaf in leaves(self):
            if role not in leaf.roles:
                leaf.roles |= {role}


Layout = tuple[Axis | None, ...]
"""One axis per dimension of a tensor; None for a dimension of size 1."""


def leaf(size: int, pinned: str | None = None, like: Axis | None = None) -> Axis:
    """A new leaf; ``like`` gives it the marks (pin, mixed, roles) of another leaf."""
    axis = Axis(size)
    if like is not None:
        axis.pinned, axis.mixed, axis.roles = like.pinned, like.mixed, like.roles
    if pinned is not None and axis.pinned is None:
        axis.pinned = pinned
    return axis


def product(parts: Iterable[Axis | None]) -> Axis | None:
    """The product of some axes, outer first; None (size 1) leaves no trace."""
    flat: list[Axis] = []
    for part in parts:
        if part is not None:
            flat += factors(part)
    flat = [axis for axis in flat if axis.size != 1]
    if len(flat) <= 1:
        return flat[0] if flat else None
    return Axis(math.prod(a.size for a in flat), "product", tuple(flat))


def total(parts: Iterable[Axis]) -> Axis:
    """The sum (concatenation) of at least one axis."""
    flat: list[Axis] = []
    for part in parts:
        flat += terms(part)
    if len(flat) == 1:
        return flat[0]
    return Axis(sum(a.size for a in flat), "sum", tuple(flat))


def factors(axis: Axis) -> list[Axis]:
    """The factors of an axis, outer first: none of them is a product."""
    axis = axis.root()
    if axis.kind != "product":
        return [axis]
    return [f for part in axis.parts for f in factors(part)]


def terms(axis: Axis) -> list[Axis]:
    """The terms of an axis in order: none of them is a sum."""
    axis = axis.root()
    if axis.kind != "sum":
        return [axis]
    return [t for part in axis.parts for t in terms(part)]


def leaves(axis: Axis) -> list[Axis]:
    """The leaves of an expression; a leaf that stands twice is given twice."""
    axis = axis.root()
    if axis.kind == "leaf":
        return [axis]
    return [x for part in axis.parts for x in leaves(part)]


def measure(axis: Axis | None, sizes: Mapping[Axis, int]) -> int:
    """The size of an expression when some leaves have other sizes."""
    if axis is None:
        return 1
    axis = axis.root()
    if axis.kind == "leaf":
        return sizes.get(axis, axis.size)
    parts = [measure(part, sizes) for part in axis.parts]
    return math.prod(parts) if axis.kind == "product" else sum(parts)


def positions(axis: Axis, kept: Mapping[Axis, Sequence[int]]) -> torch.Tensor:
    """Which of an expression's units remain when some leaves keep only some of theirs.

    Returns an int64 tensor of shape ``[remaining units]``.
    """
    axis = axis.root()
    if axis.kind == "leaf":
        keep = kept.get(axis)
        return torch.arange(axis.size) if keep is None else torch.as_tensor(keep, dtype=torch.int64)
    if axis.kind == "sum":
        offset, found = 0, []
        for part in axis.parts:
            found.append(positions(part, kept) + offset)
            offset += part.size
        return torch.cat(found)
    result = torch.zeros(1, dtype=torch.int64)
    for part in axis.parts:
        result = (result[:, None] * part.size + positions(part, kept)[None, :]).flatten()
    return result


def units(axis: Axis, of: Axis) -> torch.Tensor:
    """For each position of an expression, which unit of a leaf it belongs to; -1 for none.

    Returns an int64 tensor of shape ``[axis.size]``.
    """
    axis = axis.root()
    if axis is of:
        return torch.arange(axis.size)
    if axis.kind == "leaf":
        return torch.full((axis.size,), -1)
    parts = [units(part, of) for part in axis.parts]
    if axis.kind == "sum":
        return torch.cat(parts)
    result = torch.full((1,), -1)
    for part in parts:
        result = torch.maximum(result[:, None], part[None, :]).flatten()
    return result


def describe(axis: Axis | None) -> str:
    """Short text of an expression: sizes or names, ``(12 64)``, ``(q + k)``."""
    if axis is None:
        return "1"
    axis = axis.root()
    if axis.kind == "leaf":
        return axis.name or str(axis.size)
    return "(" + (" " if axis.kind == "product" else " + ").join(map(describe, axis.parts)) + ")"
