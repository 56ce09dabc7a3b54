"""Genotype: what was chosen, cell by cell, in the notation of DARTS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphc.ir.graph import module_path
from graphc.rules.operation import hint

from .candidates import Cones, state_of
from .choice import Choice

Gene = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Cell:
    """Nodes of which each sums one edge more than the one before, the last from that one."""

    choices: tuple[Choice, ...]

    def gene(self) -> Gene:
        """The operations that stay, node by node, each with the state that it reads."""
        return tuple((pick.name, pick.state) for choice in self.choices for pick in choice.picks)

    def concat(self) -> range | None:
        """The states that are put side by side as the cell's output; None if that is not how its output is made."""
        first = len(self.choices[0].mixture.edges)
        states = {choice.mixture.root: first + i for i, choice in enumerate(self.choices)}
        for user in self.choices[-1].mixture.root.users:
            parts: Any = user.args[0] if user.target is torch.ops.aten.cat.default else ()
            numbers = [states.get(part, -1) for part in parts]
            if numbers and numbers[0] >= 0 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
                return range(numbers[0], numbers[-1] + 1)
        return None

    def reduces(self, cones: Cones) -> bool:
        """Is its output smaller than a state that it reads?"""
        edges = [(edge, choice.mixture.root) for choice in self.choices for edge in choice.mixture.edges]
        states = [(state_of(cones, edge), root) for edge, root in edges]
        return any(state is not None and _extent(root) < _extent(state) for state, root in states)


def _extent(node: Node) -> int:
    """Entries of a map of one sample and channel."""
    extent = 1
    for size in node.meta["val"].shape[2:]:
        extent *= hint(size)
    return extent


def find_cells(choices: Sequence[Choice], cones: Cones) -> list[Cell]:
    """Choices in the cells that they are the nodes of."""
    cells: list[list[Choice]] = []
    for choice in choices:
        edges = choice.mixture.edges
        last = cells[-1][-1].mixture if cells else None
        newest = edges[-1].candidates.values()
        if last and len(edges) == len(last.edges) + 1 and any(cones.reads(value, last.root) for value in newest):
            cells[-1].append(choice)
        else:
            cells.append([choice])
    return [Cell(tuple(cell)) for cell in cells]


def genotype(choices: Sequence[Choice], cones: Cones) -> Mapping[str, Any]:
    """Normal and reduction cells as DARTS's ``Genotype`` has them, numbered if cells of a kind differ.

    Empty for a program whose every sum is one mixture: layers that are chosen, and no cells.
    """
    kinds: dict[str, list[tuple[Gene, range | None]]] = {"normal": [], "reduce": []}
    for cell in find_cells(choices, cones):
        found = kinds["reduce" if cell.reduces(cones) else "normal"]
        one = (cell.gene(), cell.concat())
        if len(cell.choices[-1].mixture.edges) > 1 and one not in found:
            found.append(one)
    made: dict[str, Any] = {}
    for kind, found in kinds.items():
        for i, (gene, concat) in enumerate(found):
            name = kind if len(found) == 1 else f"{kind}_{i}"
            made |= {name: list(gene), **({f"{name}_concat": concat} if concat is not None else {})}
    return made


def described(choices: Sequence[Choice], cones: Cones) -> dict[str, Any]:
    """What was chosen, for the report."""
    found = genotype(choices, cones)
    text = f"Genotype({', '.join(f'{name}={value!r}' for name, value in found.items())})"
    rows: list[dict[str, Any]] = [
        {
            "node": choice.mixture.root.name,
            "module": module_path(choice.mixture.root),
            "edges": [{"state": p.state, "operation": p.name, "score": p.score} for p in choice.picks],
        }
        for choice in choices
    ]
    single = [f"{row['module'] or 'the model'}: {', '.join(e['operation'] for e in row['edges'])}" for row in rows]
    return {"says": [text] if found else single, "choices": rows, **({"genotype": text} if found else {})}
