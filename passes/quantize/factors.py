"""What a rule sees of an op when factors for each unit are to go through it, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphc.errors import GraphError
from graphc.ir.graph import module_path
from graphc.rules.operation import sizes_of

from .movement import Move, Movement
from .ties import Ties


class NoSeamError(GraphError):
    """A value cannot be divided by a factor for each unit so that others make up for it."""

    def __init__(self, node: Node, why: str) -> None:
        path = module_path(node)
        super().__init__("no seam", where=f"{node.name} ({path})" if path else node.name, why=why)


@dataclass(frozen=True)
class Look:
    """One op as a rule sees it.

    Attributes:
        node: the op.
        power: what the factors are raised to: -1 in values, 1 in the weights that make up for it.
        ties: of the units.
        known: maps of nodes at each power.
        reach: how many ops lie between a node and tensors that can take factors for it.
        constants: nodes that depend on tensors of the program alone.
        movements: of the ops that were looked at before.
    """

    node: Node
    power: int
    ties: Ties
    known: Mapping[tuple[Node, int], torch.Tensor]
    reach: Mapping[Node, int]
    constants: Collection[Node]
    movements: dict[Node, Movement]

    def units(self, node: Node) -> torch.Tensor | None:
        """What is known of a node at this power."""
        return self.known.get((node, self.power))

    def arg(self, index: int, default: Any = None) -> Any:
        """An argument by position."""
        return self.node.args[index] if index < len(self.node.args) else default

    def merged(self, maps: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """What several maps of one tensor know together."""
        found = None
        for units in maps:
            found = found if units is None else self.ties.merge(found, units)
        return found

    def moved(self, node: Node, moves: Sequence[Move], results: Sequence[Node]) -> Claims:
        """Maps of a value and of values that are moved out of it, unless nothing is known of any.

        Args:
            node: the value.
            moves: each gives one of the results.
            results: these.
        """
        found = [self.units(result) for result in results]
        if self.units(node) is None and all(units is None for units in found):
            return
        if self.node not in self.movements:
            self.movements[self.node] = Movement(sizes(node), moves)
        source, parts = self.movements[self.node].maps(self.ties, self.units(node), found)
        yield node, self.power, source
        yield from ((result, self.power, units) for result, units in zip(results, parts, strict=True))


Claims = Iterator[tuple[Node, int, torch.Tensor]]
Rule = Callable[[Look], Claims]


@dataclass(frozen=True)
class Row:
    """A rule, and the positions of the arguments that take the factors of a result: all of them, or one (``any``)."""

    rule: Rule
    sources: Sequence[int]
    any: bool = False

    def reach(self, node: Node, known: Mapping[Node, int]) -> int | None:
        """How far the tensors are that take the factors of the result; None if they cannot be reached."""
        sources = [a for i in self.sources for a in listed(node.args[i : i + 1]) if is_real(a)]
        found = [known[a] for a in sources if a in known]
        if not found or (len(found) < len(sources) and not self.any):
            return None
        return 1 + (min(found) if self.any else max(found))


def sizes(node: Node) -> list[int]:
    """The shape of a value; of its example where it is dynamic."""
    return sizes_of(node.meta["val"])


def is_real(value: Any) -> bool:
    """Is it a node that gives floating-point numbers?"""
    found = value.meta.get("val") if isinstance(value, Node) else None
    found = found[0] if isinstance(found, (list, tuple)) and found else found
    return isinstance(found, torch.Tensor) and found.is_floating_point()


def listed(values: Sequence[Any]) -> list[Any]:
    """The values, those in lists one by one."""
    return [v for value in values for v in (value if isinstance(value, (list, tuple)) else [value])]


def lead(units: torch.Tensor, rank: int) -> torch.Tensor:
    """A map with leading dims of size 1 up to this rank."""
    return units.reshape([1] * (rank - units.dim()) + list(units.shape))
