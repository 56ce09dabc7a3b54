"""Ranks: how many units each new axis keeps, as asked, by energy, or under a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from graphc.axes.axis import Axis
from graphc.coupling import analyze
from graphc.coupling.cost import budget, one_sample
from graphc.errors import GraphError
from graphc.ir.program import Program

from ..ranking import rank
from .products import Method, most, shapes
from .rewrite import Product, with_products
from .weights import Weight

Ranks = Mapping[str, tuple[int, ...]]
KINDS = ("params", "macs", "bytes")


def by_rank(weights: Sequence[Weight], methods: Mapping[str, Method], asked: int | str, where: str) -> Ranks:
    """The same rank for all, or the same share of each one's greatest.

    Raises:
        GraphError: a rank is above the greatest that a weight has.
    """
    found: dict[str, tuple[int, ...]] = {}
    for weight in weights:
        full = most(weight, methods[weight.name])
        if isinstance(asked, str):
            found[weight.name] = tuple(max(1, round(float(asked.rstrip("% ")) / 100 * n)) for n in full)
            continue
        if asked > min(full):
            why = f"its greatest rank is {min(full)}"
            hint = "lower the rank, write a percentage, or name others by targets and ignore"
            raise GraphError(f"{weight.name} has no rank {asked}", where=where, why=why, hint=hint)
        found[weight.name] = tuple(asked for _ in full)
    return found


def by_energy(squares: Mapping[str, Sequence[torch.Tensor]], energy: float) -> Ranks:
    """The least ranks that keep this share of the sum of squared singular values, for each new axis."""
    return {name: tuple(_least(values, energy) for values in each) for name, each in squares.items()}


def _least(values: torch.Tensor, energy: float) -> int:
    kept = values.cumsum(0)
    return min(len(values), int((kept < energy * kept[-1]).sum()) + 1)


def smaller(weights: Sequence[Weight], methods: Mapping[str, Method], ranks: Ranks) -> Ranks:
    """Ranks of those weights alone whose product has fewer entries than they have."""
    found: dict[str, tuple[int, ...]] = {}
    for weight in weights:
        made = shapes(weight, methods[weight.name], ranks[weight.name]).values()
        if sum(map(_entries, made)) < _entries(weight.shape):
            found[weight.name] = ranks[weight.name]
    return found


def _entries(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


@dataclass(frozen=True)
class Costs:
    """What a weight costs by kind: as it is, and as a product, for each set of axes that its costs grow with."""

    axes: tuple[Axis, ...]
    dense: Mapping[str, int]
    terms: Mapping[str, Sequence[tuple[int, tuple[Axis, ...]]]]

    def product(self, kind: str, sizes: Mapping[Axis, int]) -> int:
        """As a product."""
        total = 0
        for factor, axes in self.terms[kind]:
            total += factor * torch.Size([sizes[a] for a in axes]).numel()
        return total

    def pays(self, sizes: Mapping[Axis, int], kinds: Sequence[str]) -> bool:
        """Is the product cheaper in all of the kinds?"""
        return all(self.product(kind, sizes) < self.dense[kind] for kind in kinds)


class Solver:
    """Budgets on the polynomials of the program in which every weight is a product of full rank, without values."""

    def __init__(self, program: Program, weights: Sequence[Weight], methods: Mapping[str, Method]) -> None:
        self.weights, self.program = weights, program
        tensors = program.tensors()
        empty = [Product(w, methods[w.name], _without_values(w, methods[w.name], tensors[w.name])) for w in weights]
        whole, names = with_products(program, empty)
        self.first, self.analysis = analyze(program), analyze(whole)
        self.axes = {w.name: self._axes(w, methods[w.name], names[w.name]) for w in weights}
        zero = {axis: 0 for axes in self.axes.values() for axis in axes}
        self.base = budget(self.analysis, zero, **one_sample(whole))
        self.costs = {w.name: self._costs(w, zero) for w in weights}

    def _axes(self, weight: Weight, method: Method, names: Mapping[str, str]) -> tuple[Axis, ...]:
        """The new axes of a weight: those at the dims whose sizes are its ranks."""
        found: list[Axis] = []
        count = len(most(weight, method))
        for number in range(count):
            made = shapes(weight, method, [-1 if i == number else 1 for i in range(count)])
            part = next(part for part, shape in made.items() if -1 in shape)
            axis = self.analysis.tensors[names[part]][made[part].index(-1)]
            assert axis is not None
            found.append(axis.root())
        return tuple(found)

    def _costs(self, weight: Weight, zero: Mapping[Axis, int]) -> Costs:
        axes, dims = self.axes[weight.name], one_sample(self.program)
        nodes = {use.node for use in weight.uses}
        part = dataclasses.replace(
            self.first,
            tensors={weight.name: self.first.tensors[weight.name]},
            costs=[cost for cost in self.first.costs if cost.node in nodes],
        )
        dense = budget(part, None, **dims)

        def at(*on: Axis) -> Mapping[str, int]:
            found = budget(self.analysis, {**zero, **dict.fromkeys(on, 1)}, **dims)
            return {kind: getattr(found, kind) - getattr(self.base, kind) for kind in KINDS}

        single = {axis: at(axis) for axis in axes}
        terms: dict[str, list[tuple[int, tuple[Axis, ...]]]]
        terms = {kind: [(single[axis][kind], (axis,)) for axis in axes] for kind in KINDS}
        if len(axes) == 2:
            both = at(*axes)
            for kind in KINDS:
                terms[kind].append((both[kind] - sum(single[a][kind] for a in axes), axes))
        return Costs(axes, {kind: getattr(dense, kind) for kind in KINDS}, terms)

    def total(self, kind: str, sizes: Mapping[Axis, int], kinds: Sequence[str]) -> int:
        """What the program costs where each weight is a product only if that is cheaper."""
        total: int = getattr(self.base, kind)
        for cost in self.costs.values():
            total += cost.product(kind, sizes) if cost.pays(sizes, kinds) else cost.dense[kind]
        return total

    def fits(self, allowed: Mapping[str, float], sizes: Mapping[Axis, int]) -> bool:
        """Are all limits held?"""
        return all(self.total(kind, sizes, tuple(allowed)) <= limit for kind, limit in allowed.items())

    def check(self, allowed: Mapping[str, float], where: str) -> None:
        """Can the limits be held at all?

        Raises:
            GraphError: not by one unit of each axis; says what that would cost.
        """
        least = {axis: 1 for axes in self.axes.values() for axis in axes}
        if not self.fits(allowed, least):
            why = ", ".join(f"at rank 1 it has {self.total(k, least, tuple(allowed)):,} {k}" for k in allowed)
            raise GraphError("the constraints cannot be met", where=where, why=why, hint="allow more")

    def ranks(self, squares: Mapping[str, Sequence[torch.Tensor]], allowed: Mapping[str, float]) -> Ranks:
        """Ranks after the fewest removals that fit; the units go first that are worth least for what they cost.

        Worth is the squared singular value as a share of the sum. Weights that are cheaper as they are are left out.
        """
        scores: dict[Axis, torch.Tensor] = {}
        kind = next(iter(allowed))
        full = {axis: axis.size for axes in self.axes.values() for axis in axes}
        for name, axes in self.axes.items():
            for axis, values in zip(axes, squares[name], strict=True):
                cost = self.costs[name]
                unit = cost.product(kind, full) - cost.product(kind, {**full, axis: axis.size - 1})
                scores[axis] = values / float(values.sum() or 1.0) / max(unit, 1)
        sizes = rank(scores, dict.fromkeys(scores, "all")).by_budget(partial(self.fits, allowed))
        assert sizes is not None  # checked before
        return {
            name: tuple(sizes[axis] for axis in axes)
            for name, axes in self.axes.items()
            if self.costs[name].pays(sizes, tuple(allowed))
        }


def _without_values(weight: Weight, method: Method, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors of full rank that take no memory."""
    nothing = torch.zeros((), dtype=like.dtype, device=like.device)
    return {part: nothing.expand(shape) for part, shape in shapes(weight, method, most(weight, method)).items()}
