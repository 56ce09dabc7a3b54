"""Architecture weights: distributions over candidates, and which of their entries each constant of a program is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.fx import Node

from graphc.errors import GraphError
from graphc.ir.canonical import CASTS
from graphc.ir.edit import constants, evaluate
from graphc.ir.functional import source_of
from graphc.ir.program import Program

aten = torch.ops.aten
SOFTMAX = {aten.softmax.int, aten._softmax.default}
SIGMOID = {aten.sigmoid.default}
BY_HAND = {aten.div.Tensor, aten.exp.default}
"""Ops that end a softmax which the model writes itself."""
COPIES = {
    aten.clone.default,
    aten.cat.default,
    aten.stack.default,
    aten.index_select.default,
    aten.index.Tensor,
    aten.gather.default,
    aten.flip.default,
    aten.roll.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
}
"""Ops that are no views, and give entries of what they take, some of them or in another order."""

LARGEST = 1 << 16
"""Entries of a tensor that may be a table of weights."""
CLOSE = 1e-3
"""How far from 1 the sum of a distribution may be; weights may be in half precision."""


@dataclass(frozen=True, eq=False)
class Row:
    """A distribution over candidates.

    Attributes:
        source: the node that normalises.
        number: counts its rows.
        weights: of the candidates, ``[candidates]``.
        logits: what was normalised, ``[candidates]``; None if that is not known.
    """

    source: Node
    number: int
    weights: torch.Tensor
    logits: torch.Tensor | None

    @property
    def table(self) -> str:
        """The tensor that it is made of."""
        return str(max(leaves([self.source]), key=lambda leaf: leaf.meta["val"].numel()).target)


class Entry(NamedTuple):
    """One candidate's place in a row."""

    row: Row
    place: int

    @property
    def weight(self) -> torch.Tensor:
        """A number without dims."""
        return self.row.weights[self.place]


@dataclass
class Weights:
    """All distributions of a program, and the constants that are made of nothing but their entries.

    Attributes:
        constant: the nodes that depend on no input.
        entries: of all rows, numbered.
        numbers: for each constant that selects entries, their numbers in its own shape; several such tensors
            where entries are multiplied.
    """

    constant: set[Node]
    entries: list[Entry] = field(default_factory=list)
    numbers: dict[Node, tuple[Any, ...]] = field(default_factory=dict)

    def of(self, node: Node) -> list[tuple[Entry, ...]]:
        """What each element of a constant is the product of, in flat order."""
        factors = [factor.flatten().tolist() for factor in self.numbers[node]]
        return [tuple(self.entries[i] for i in numbers) for numbers in zip(*factors, strict=True)]

    def weigh(self, node: object) -> bool:
        """Is this a tensor of weights?"""
        return isinstance(node, Node) and isinstance(self.numbers.get(node, (None,))[0], torch.Tensor)


def find_weights(program: Program, stored: bool = False) -> Weights:
    """Find the constants that are softmaxes, sigmoids or other distributions, and follow their entries.

    Args:
        program: stays as it is.
        stored: take tensors of the program that hold distributions, too.

    Raises:
        GraphError: the tensors that they are made of have no values.
    """
    weights = Weights(constants(program.graph))
    tensors = {n for n in weights.constant if isinstance(n.meta["val"], torch.Tensor)}
    small = {n for n in tensors if n.meta["val"].numel() <= LARGEST}
    values = {n: v.detach().cpu() if n in small else v for n, v in evaluate(program, small).items()}
    same = _same(node for node in program.graph.nodes if node in weights.constant)
    for node, first in same.items():
        dim = _normalised(node, values, stored) if node in small and node not in weights.numbers else None
        if first in weights.numbers:
            weights.numbers[node] = weights.numbers[first]
        elif dim is not None:
            _add_rows(weights, node, dim, values)
        elif node.op == "call_function":
            _follow(weights, node, values)
    return weights


def leaves(nodes: Iterable[Node]) -> list[Node]:
    """The tensors of floats that constants are computed from."""
    found, left = set(nodes), list(nodes)
    while left:
        new = set(left.pop().all_input_nodes) - found
        found |= new
        left += new
    return sorted((n for n in found if n.op == "get_attr" and n.meta["val"].is_floating_point()), key=str)


def _same(nodes: Iterable[Node]) -> dict[Node, Node]:
    """For each node the first that computes the same: models take the softmax anew wherever they use it."""
    first: dict[str, Node] = {}
    same: dict[Node, Node] = {}
    for node in nodes:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: same.get(n, n))
        same[node] = first.setdefault(f"{node.op} {node.target} {args} {kwargs}", node)
    return same


def _normalised(node: Node, values: Mapping[Node, Any], stored: bool) -> int | None:
    """The dim along which a constant is a distribution over candidates; None if it is none."""
    value: torch.Tensor = values[node]
    if not value.is_floating_point() or value.dim() == 0:
        return None
    if node.target in SOFTMAX:
        return int(node.args[1]) % value.dim()  # type: ignore[arg-type] # a number by the op's schema
    if node.target in SIGMOID:
        return value.dim() - 1
    if node.target not in BY_HAND and not (stored and node.op == "get_attr"):
        return None
    if value.device.type == "meta" or not bool((value >= 0).all()):
        return None
    sums = [value.double().sum(dim) for dim in range(value.dim())]
    found = [d for d, s in enumerate(sums) if value.shape[d] > 1 and bool(((s - 1).abs() < CLOSE).all())]
    return found[-1] if found else None


def _add_rows(weights: Weights, node: Node, dim: int, values: Mapping[Node, Any]) -> None:
    """Number the entries of a distribution."""
    value = values[node]
    if value.device.type == "meta":
        why = f"{node.name} is computed from tensors on the meta device"
        raise GraphError("the weights of the candidates are not known", why=why, hint="load the weights first")
    first, shape = len(weights.entries), value.movedim(dim, -1).shape
    logits = values[node.args[0]] if node.target in SOFTMAX | SIGMOID else None  # type: ignore[index] # a tensor
    rows = value.movedim(dim, -1).reshape(-1, shape[-1])
    before = logits.movedim(dim, -1).reshape(-1, shape[-1]) if logits is not None else [None] * len(rows)
    for i, (row, logit) in enumerate(zip(rows, before, strict=True)):
        made = Row(node, i, row, logit)
        weights.entries += [Entry(made, k) for k in range(len(row))]
    weights.numbers[node] = (torch.arange(first, len(weights.entries)).reshape(shape).movedim(-1, dim),)


def _follow(weights: Weights, node: Node, values: Mapping[Node, Any]) -> None:
    """Note a constant that moves or multiplies entries."""
    known = [weights.numbers[n] for n in node.all_input_nodes if n in weights.numbers]
    if not known:
        return
    if node.target is aten.mul.Tensor and len(known) == len(node.args) and all(map(weights.weigh, node.args)):
        factors = [factor for operand in node.args for factor in weights.numbers[operand]]  # type: ignore[index]
        weights.numbers[node] = tuple(factor.expand(node.meta["val"].shape) for factor in factors)
    elif len({len(factors) for factors in known}) == 1:
        results = []
        for i in range(len(known[0])):
            numbers = {n: weights.numbers[n][i] for n in node.all_input_nodes if n in weights.numbers}
            results.append(_moved(node, numbers, values.__getitem__))
        if all(result is not None for result in results):
            weights.numbers[node] = tuple(results)


def _moved(node: Node, numbers: Mapping[Node, Any], value: Callable[[Node], Any]) -> Any:
    """What an op gives if it is done to numbers of entries in place of the entries; None if it does more than move."""
    if node.target in CASTS:
        return numbers.get(node.args[0])  # type: ignore[arg-type] # a tensor by the op's schema
    view = source_of(node) is not None and node.target is not aten.einsum.default
    if not (view or node.target in COPIES):
        return None
    others = {n for n in node.all_input_nodes if n not in numbers}
    if any(_is_real(n) for n in others):
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: value(n) if n in others else numbers[n])
    return node.target(*args, **kwargs)  # type: ignore[operator] # an op


def _is_real(node: Node) -> bool:
    value = node.meta["val"]
    return not isinstance(value, torch.Tensor) or value.is_floating_point()
