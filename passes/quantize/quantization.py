"""Quantization: a program in real numbers, and all that is decided of its integers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from graphc.ir.program import Program

from ..contractions import Contraction
from .insert import converted, simulated
from .numbers import Chosen, Rounded
from .placement import Point, place
from .target import Rules


@dataclass(frozen=True)
class Quantization:
    """What becomes integers, and which.

    Attributes:
        program: in real numbers, prepared.
        rules: of the target and scheme.
        products: that take integers.
        points: values that become integers.
        chosen: the numbers of each group of values.
        rounded: weights of the products, and embeddings.
    """

    program: Program
    rules: Rules
    products: tuple[Contraction, ...]
    points: tuple[Point, ...]
    chosen: Chosen
    rounded: Mapping[str, Rounded]

    def without(self, nodes: Collection[str]) -> Quantization:
        """The same with these products in real numbers; nothing is calibrated or rounded again."""
        products = tuple(p for p in self.products if p.node.name not in nodes)
        if not self.points:
            return replace(self, products=products, rounded=self._weights(products))
        points = tuple(place(self.program, self.rules, products))
        numbers = {point.node: self.chosen[point.group] for point in self.points}
        chosen = {point.group: numbers[point.group] for point in points}
        return replace(self, products=products, points=points, chosen=chosen, rounded=self._weights(products))

    def _weights(self, products: Collection[Contraction]) -> dict[str, Rounded]:
        """Those that a product of integers still reads, and those that none ever did."""
        own = {product.weight for product in self.products}
        kept = {product.weight for product in products}
        return {name: found for name, found in self.rounded.items() if name in kept or name not in own}

    def simulated(self) -> Program:
        """The program in the real numbers that its integers stand for."""
        return simulated(self.program, self.points, self.chosen, self.rounded)

    def converted(self, note: str | None = None) -> Program:
        """The program with integers."""
        return converted(self.program, self.points, self.chosen, self.rounded, self.products, note)
