"""Does an op do what its rule claims? Each axis is cut, and op(cut) is compared with cut(op)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from graphc.axes.axis import Axis, Layout, leaf, leaves, measure, positions
from graphc.rules import Operation, rule_of
from graphc.rules.table import Flow

Kept = Mapping[Axis, Sequence[int]]


@dataclass(frozen=True)
class T:
    """A float tensor of a sample; ``low`` keeps it positive where the op needs that."""

    shape: tuple[int, ...]
    low: float | None = None
    dtype: torch.dtype = torch.float64

    def make(self, generator: torch.Generator) -> torch.Tensor:
        value = torch.randn(self.shape, generator=generator, dtype=self.dtype)
        return value if self.low is None else value.abs() + self.low


@dataclass(frozen=True)
class I:  # noqa: E742 - an index, as T is a tensor
    """An integer tensor of a sample that uses every index below ``high``."""

    shape: tuple[int, ...]
    high: int

    def make(self, generator: torch.Generator) -> torch.Tensor:
        count = int(torch.tensor(self.shape).prod())
        return torch.randperm(count, generator=generator).remainder(self.high).view(self.shape)


@dataclass(frozen=True)
class B:
    """A boolean tensor of a sample."""

    shape: tuple[int, ...]

    def make(self, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(self.shape, generator=generator) > 0.4


@dataclass(frozen=True)
class V:
    """A tensor of given values."""

    values: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(torch.tensor(self.values).shape)

    def make(self, _: torch.Generator) -> torch.Tensor:
        value = torch.tensor(self.values)
        return value.double() if value.is_floating_point() else value


class Trial:
    """One op on one sample, with the claims of its rule."""

    def __init__(self, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], rule: Flow | None = None) -> None:
        self.op = op
        generator = torch.Generator().manual_seed(0)
        graph = Graph()
        self.tensors: dict[Node, torch.Tensor] = {}
        values: dict[Node, Any] = {}

        def node_of(spec: Any) -> Any:
            if isinstance(spec, (list, tuple)):
                return [node_of(item) for item in spec]
            if not isinstance(spec, (T, I, B, V)):
                return spec
            node = graph.create_node("get_attr", f"t{len(self.tensors)}")
            self.tensors[node] = node.meta["val"] = spec.make(generator)
            values[node] = tuple(None if size == 1 else leaf(size) for size in spec.shape)
            return node

        self.node = graph.call_function(op, tuple(map(node_of, args)), {k: node_of(v) for k, v in kwargs.items()})
        self.result = self.run(self.tensors, self.node.args)
        self.node.meta["val"] = self.result
        self.operation = Operation(values)
        self.operation.node = self.node
        flow = rule or rule_of(op)
        assert flow is not None
        self.claim = flow(self.operation)
        self.values = values

    def run(self, tensors: Mapping[Node, torch.Tensor], args: Any) -> Any:
        torch.manual_seed(0)
        given, named = map_arg((args, self.node.kwargs), tensors.__getitem__)
        return self.op(*given, **named)

    def axes(self) -> list[Axis]:
        """Every leaf that the operands or the result have."""
        layouts = [self.values[node] for node in self.tensors] + _layouts(self.claim)
        found = (x for layout in layouts for axis in layout if axis is not None for x in leaves(axis))
        return [axis for axis in dict.fromkeys(found) if axis.size > 1]

    def observe(self, axis: Axis) -> str:
        """What happens when an axis is cut.

        ``exact``: the op makes what is left of the result. ``contracted``: it makes what it made with
        zeros in the place of what goes, in any one of at least two operands: so zero weights are enough,
        whatever they meet. ``mixed``: it runs, and the rest changes. ``breaks``: it fails, or the shape is
        not what the rule says.
        """
        kept = {axis: _some(axis.size)}
        try:
            found = self._cut(kept)
            wanted = self._left(self.result, kept)
        except (RuntimeError, IndexError, ValueError):
            return "breaks"
        if len(found) != len(wanted) or any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
            return "breaks"
        if _equal(found, wanted):
            return "exact"
        having = [n for n, value in self.tensors.items() if _zero(value, self.values[n], kept) is not value]
        alone = all(_equal(found, self._masked(kept, [node])) for node in having)
        return "contracted" if len(having) > 1 and alone else "mixed"

    def enough(self, axis: Axis) -> bool:
        """Are zeros in the matrices that read along an axis enough, whatever their other operand holds?"""
        kept = {axis: _some(axis.size)}
        reading = [n for n, lay in self.values.items() if len(lay) == 2 and lay[1] and axis in leaves(lay[1])]
        return _equal(self._cut(kept), self._masked(kept, reading))

    def exact_together(self, axes: Sequence[Axis]) -> bool:
        """Does the op make what it made with zeros in the place of what goes, when several axes are cut?"""
        kept = {axis: _some(axis.size) for axis in axes}
        found, wanted = self._cut(kept), self._masked(kept, list(self.tensors))
        return [a.shape for a in found] == [b.shape for b in wanted] and _equal(found, wanted)

    def shapes_fit(self) -> bool:
        """Has every result the sizes of its layout?"""
        layouts = [tuple(1 if axis is None else axis.size for axis in layout) for layout in _layouts(self.claim)]
        return layouts == [tuple(value.shape) for value in _flat(self.result)]

    def _cut(self, kept: Kept) -> list[torch.Tensor]:
        small = {node: _take(value, self.values[node], kept) for node, value in self.tensors.items()}
        return _flat(self.run(small, self.restated(kept)))

    def _left(self, result: Any, kept: Kept) -> list[torch.Tensor]:
        return [_take(value, lay, kept) for value, lay in zip(_flat(result), _layouts(self.claim), strict=True)]

    def _masked(self, kept: Kept, nodes: Sequence[Node]) -> list[torch.Tensor]:
        zeroed = {node: _zero(self.tensors[node], self.values[node], kept) for node in nodes}
        return self._left(self.run({**self.tensors, **zeroed}, self.node.args), kept)

    def restated(self, kept: Kept) -> Any:
        """The op's arguments with the sizes that the rule said they repeat."""
        sizes = {axis: len(units) for axis, units in kept.items()}
        args: list[Any] = [list(a) if isinstance(a, (list, tuple)) else a for a in self.node.args]
        for literal in self.operation.literals:
            old, new = (sum(measure(a, s) for a in literal.axes) for s in ({}, sizes))
            if old == new:
                continue
            first, *rest = literal.path
            assert isinstance(first, int)
            if rest:
                args[first][rest[0]] = new
            else:
                args[first] = new
        return tuple(args)


def _some(size: int) -> list[int]:
    """Not the first and not the last but one: no prefix and no mirror image, so that positions matter."""
    return [i for i in range(size) if i != 0 and (size <= 3 or i != size - 2)]


def _layouts(claim: Any) -> list[Layout]:
    return list(claim) if claim and isinstance(claim[0], tuple) else [claim]


def _flat(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _take(value: torch.Tensor, layout: Layout, kept: Kept) -> torch.Tensor:
    for dim, axis in enumerate(layout):
        if axis is not None and any(x in kept for x in leaves(axis)):
            value = value.index_select(dim, positions(axis, kept))
    return value


def _zero(value: torch.Tensor, layout: Layout, kept: Kept) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    for dim, axis in enumerate(layout):
        if axis is not None and any(x in kept for x in leaves(axis)):
            keep = torch.zeros(value.shape[dim], dtype=torch.bool)
            keep[positions(axis, kept)] = True
            value = value * keep.view([-1 if i == dim else 1 for i in range(value.dim())])
    return value


def _equal(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, equal_nan=True) for a, b in zip(found, wanted, strict=True))
