"""Moves: values that hold another value's entries in another order, and products that may as well come first.

A value behind views and transposes is described by the value that it was made of: every dim is a product of atoms,
which are factors of the dims of that origin. Linear layers and what is done to each entry alone can be done before a
move as well as after it. Where moves cancel, the described value is its origin, and none of them need be made.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphc.ir.quantized import DEQUANTIZE, FAKE, QUANTIZE

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Atom:
    """A factor of a dim of an origin.

    Attributes:
        size: may be symbolic.
        index: the one entry that was chosen of it; such an atom is in no dim of the moved value.
    """

    size: Any
    index: int | None = None


Dims = tuple[tuple[Atom, ...], ...]
"""Each dim as a product of atoms, the outermost first; a dim of size 1 has none."""


@dataclass(frozen=True, eq=False)
class Origin:
    """A value, or what an op would make of an origin if it came before the moves."""

    node: Node
    before: Origin | None = None


@dataclass(frozen=True, eq=False)
class Moved:
    """A value as its origin moved.

    Attributes:
        origin: what it was made of.
        whole: the origin's dims.
        dims: its own.
    """

    origin: Origin
    whole: Dims
    dims: Dims

    @property
    def partial(self) -> bool:
        """Whether it has but a part of its origin's entries."""
        return any(atom.index is not None for dim in self.whole for atom in dim)

    def with_atom(self, old: Atom, new: tuple[Atom, ...]) -> Moved:
        """The same with other atoms in an atom's place."""
        whole, dims = (
            tuple(tuple(a for atom in dim for a in (new if atom is old else (atom,))) for dim in of)
            for of in (self.whole, self.dims)
        )
        return replace(self, whole=whole, dims=dims)


def follow(graph: Graph) -> dict[Node, Moved]:
    """Every value that is another one moved; those that are moved by nothing are not in it."""
    found: dict[Node, Moved] = {}
    for node in graph.nodes:
        rule = MOVES.get(node.target) or BEFORE.get(node.target)
        source = node.args[0] if node.args else None
        if isinstance(source, Node) and source.target is aten.unbind.int:
            source = source.args[0]
        if rule is None or not isinstance(source, Node) or not _plain(source) or not _plain(node):
            continue
        if node.target in BEFORE and (source not in found or found[source].partial):
            continue  # nothing to come before, or more to compute there
        made = rule(found.get(source) or unmoved(source), node)
        if made is not None:
            found[node] = made
    return found


def unmoved(node: Node) -> Moved:
    """A value as itself."""
    dims = tuple(() if same(size, 1) else (Atom(size),) for size in node.meta["val"].shape)
    return Moved(Origin(node), dims, dims)


def straight(graph: Graph, moved: Moved, dims: Dims, made: dict[Node, Node]) -> Node | None:
    """The moved value with these dims, if its origin has them in this order but for parts that were not chosen.

    Args:
        graph: nodes are inserted where it inserts now.
        moved: a description.
        dims: products of atoms that the result should have.
        made: for ops that come before moves now, the new ones; added to.
    """
    free = [tuple(atom for atom in dim if atom.index is None) for dim in moved.whole]
    kept = [f for f, dim in zip(free, moved.whole, strict=True) if f or not dim]
    if kept != list(dims):
        return None
    cuts: list[tuple[int, int, int | None]] = []
    for position, (dim, rest) in enumerate(zip(moved.whole, free, strict=True)):
        size = math.prod(atom.size for atom in rest)
        if len(dim) == len(rest):
            continue
        if len(dim) > len(rest) + 1 or dim[0].index is None or not isinstance(size, int):
            return None
        cuts.append((position, dim[0].index, size if rest else None))
    value = _placed(graph, moved.origin, made)
    for position, index, part in reversed(cuts):
        if part is None:
            value = graph.call_function(aten.select.int, (value, position, index))
        else:
            value = graph.call_function(aten.slice.Tensor, (value, position, index * part, (index + 1) * part))
    return value


def _placed(graph: Graph, origin: Origin, made: dict[Node, Node]) -> Node:
    if origin.before is None:
        return origin.node
    if origin.node not in made:
        before = _placed(graph, origin.before, made)
        made[origin.node] = graph.create_node(
            "call_function", origin.node.target, (before, *origin.node.args[1:]), dict(origin.node.kwargs)
        )
    return made[origin.node]


def same(a: Any, b: Any) -> bool:
    """Are two sizes equal, whatever the symbols in them are?"""
    return bool(statically_known_true(a == b))


def _parts(size: Any, part: Any) -> Any:
    """How often a size that divides another is in it."""
    count = size // part
    constant = isinstance(count, torch.SymInt) and count.node.expr.is_number
    return int(count) if constant else count


def _plain(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _regrouped(moved: Moved, node: Node) -> Moved | None:
    """Views: the atoms keep their order; those that two dims share are split."""
    left = [atom for dim in moved.dims for atom in dim]
    dims: list[tuple[Atom, ...]] = []
    for size in node.meta["val"].shape:
        dim: list[Atom] = []
        while not same(size, 1):
            if not left:
                return None
            atom = left.pop(0)
            if same(size % atom.size, 0):
                size = _parts(size, atom.size)
            elif same(atom.size % size, 0):
                atoms = Atom(size), Atom(_parts(atom.size, size))
                moved = moved.with_atom(atom, atoms)
                left.insert(0, atoms[1])
                atom, size = atoms[0], 1
            else:
                return None
            dim.append(atom)
        dims.append(tuple(dim))
    return None if left else replace(moved, dims=tuple(dims))


def _permuted(moved: Moved, order: Sequence[int]) -> Moved:
    return replace(moved, dims=tuple(moved.dims[i] for i in order))


def _transposed(moved: Moved, node: Node) -> Moved:
    rank = len(moved.dims)
    first, second = (int(dim) % rank for dim in (node.args[1:] or (0, 1)))  # type: ignore[arg-type] # by the schema
    order = list(range(rank))
    order[first], order[second] = second, first
    return _permuted(moved, order) if rank > 1 else moved


def _chosen(moved: Moved, dim: Any, index: Any) -> Moved | None:
    """One entry along a dim, which has to be one atom or none."""
    dim %= len(moved.dims)
    atoms = moved.dims[dim]
    if len(atoms) > 1 or not isinstance(index, int) or (atoms and not isinstance(atoms[0].size, int)):
        return None
    rest = replace(moved, dims=moved.dims[:dim] + moved.dims[dim + 1 :])
    return rest.with_atom(atoms[0], (Atom(atoms[0].size, index % atoms[0].size),)) if atoms else rest


def _unbound(moved: Moved, node: Node) -> Moved | None:
    unbind = node.args[0]
    if not isinstance(unbind, Node) or unbind.target is not aten.unbind.int:
        return None
    return _chosen(moved, unbind.args[1] if len(unbind.args) > 1 else 0, node.args[1])


def _linear(moved: Moved, node: Node) -> Moved | None:
    """A linear layer reads the last dim, which must be the origin's last one as a whole."""
    if moved.dims[-1] != moved.whole[-1]:
        return None
    last = unmoved(node).dims[-1]
    return Moved(Origin(node, moved.origin), (*moved.whole[:-1], last), (*moved.dims[:-1], last))


def _each(moved: Moved, node: Node) -> Moved | None:
    """What is done to each entry alone, with the same numbers for all of them."""
    others = [arg for arg in (*node.args[1:], *node.kwargs.values()) if isinstance(arg, Node)]
    if any(not _plain(other) or other.meta["val"].dim() for other in others):
        return None
    return replace(moved, origin=Origin(node, moved.origin))


MOVES: Mapping[Any, Callable[[Moved, Node], Moved | None]] = {
    **dict.fromkeys(
        (
            aten.view.default,
            aten.reshape.default,
            aten._unsafe_view.default,
            aten.flatten.using_ints,
            aten.unflatten.int,
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.contiguous.default,
            aten.clone.default,
        ),
        _regrouped,
    ),
    aten.permute.default: lambda moved, node: _permuted(moved, node.args[1]),  # type: ignore[arg-type] # by the schema
    aten.transpose.int: _transposed,
    aten.t.default: _transposed,
    aten.select.int: lambda moved, node: _chosen(moved, node.args[1], node.args[2]),
    operator.getitem: _unbound,
}
"""What becomes of a moved value by each op that moves it further."""
BEFORE: Mapping[Any, Callable[[Moved, Node], Moved | None]] = {
    aten.linear.default: _linear,
    **dict.fromkeys((QUANTIZE, DEQUANTIZE, FAKE, aten.dropout.default), _each),
}
"""What becomes of it by each op that can come before the moves."""
