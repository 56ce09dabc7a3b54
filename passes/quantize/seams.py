"""Finding seams: from a value to all that must be divided with it, and to the tensors where this ends.

Cross-layer equalisation and SmoothQuant are both this: what makes the value has its rows divided, what
reads it has its columns multiplied, and between stand only ops that factors go through (``commuting``).
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable

import torch
from torch.fx import Node

from graphc.ir.edit import find
from graphc.ir.program import Program

from ..affine import FORMS, constants
from .commuting import ROWS, SIZES
from .factors import Look, NoSeamError, is_real, sizes
from .movement import Movement
from .seam import End, Seam
from .ties import Ties


class Seams:
    """Finds the seams of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.constants = constants(program.graph)
        self.reach = _reach(program)
        self.movements: dict[Node, Movement] = {}
        self.copies = Counter(str(n.target) for n in program.graph.nodes if n.op == "get_attr")

    def at(self, value: str, dim: int) -> Seam:
        """The seam at a value.

        Args:
            value: name of a node.
            dim: of its value, with a static size.

        Raises:
            NoSeamError: there is none; says which op stands in the way.
        """
        node = find(self.program.graph, value)
        return _Search(self, node, dim % len(sizes(node))).seam()

    def all(self) -> list[Seam]:
        """Every seam between layers: for each value that a layer reads, unless one found before has it."""
        found: list[Seam] = []
        for node, dim in layer_inputs(self.program).items():
            if not any(node.name in seam.values for seam in found):
                try:
                    found.append(self.at(node.name, dim))
                except NoSeamError:
                    continue
        return found


def layer_inputs(program: Program) -> dict[Node, int]:
    """Values that convolutions and linear layers multiply by weights, in graph order, and the dim of their units."""
    own = constants(program.graph)
    found: dict[Node, int] = {}
    for node in program.graph.nodes:
        form = FORMS.get(node.target)
        if form is not None and node.args[form.weight] in own and len(sizes(node.args[form.data])) == len(sizes(node)):
            found.setdefault(node.args[form.data], form.unit_dim(node))
    return found


def _reach(program: Program) -> dict[Node, int]:
    found: dict[Node, int] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr" and is_real(node):
            found[node] = 0 if isinstance(node.meta["val"], torch.nn.Parameter) else 1
        row = ROWS.get(node.target) if node.op == "call_function" else None
        far = row.reach(node, found) if row is not None else None
        if node.target is operator.getitem and node.args[0] in found:
            far = found[node.args[0]]
        if far is not None:
            found[node] = far
    return found


class _Search:
    """One search: maps spread from op to op until nothing changes; then each op must explain all that is known."""

    def __init__(self, seams: Seams, value: Node, dim: int) -> None:
        self.seams = seams
        self.value, self.dim = value, dim
        self.size = sizes(value)[dim]
        self.ties = Ties(self.size)
        self.known: dict[tuple[Node, int], torch.Tensor] = {}
        self.waiting: dict[Node, None] = {}
        self.touched: dict[Node, None] = {}

    def seam(self) -> Seam:
        shape = [1] * len(sizes(self.value))
        shape[self.dim] = self.size
        self._mark(self.value, -1, torch.arange(self.size).reshape(shape))
        while self.waiting:
            for mark in self._claims(self.waiting.popitem()[0]):
                self._mark(*mark)
        for node in self.touched:
            self._explain(node)
        first = self.ties.first
        if self.size > 1 and bool((first == 0).all()):
            raise NoSeamError(self.value, "all units must have the same factor")
        values = frozenset(n.name for n, power in self.known if power < 0 and n not in self.seams.constants)
        return Seam(self.value.name, self.dim, self.size, first, self._ends(-1), self._ends(1), values)

    def _claims(self, node: Node) -> Iterable[tuple[Node, int, torch.Tensor]]:
        row = ROWS.get(node.target) if node.op == "call_function" else None
        if row is None:
            raise NoSeamError(node, "an output" if node.op == "output" else f"factors do not go through {node.target}")
        for power in (-1, 1):
            seams = self.seams
            yield from row.rule(Look(node, power, self.ties, self.known, seams.reach, seams.constants, seams.movements))

    def _mark(self, node: Node, power: int, units: torch.Tensor) -> None:
        """Learn more of a node; the ops around it are to be looked at again."""
        old = self.known.get((node, power))
        new = self.ties.merge(old, units)
        if bool((new < 0).all()) or (old is not None and self.ties.same(old, new)):
            return
        self._check(node, power)
        self.known[node, power] = new
        for op in _around(node):
            self.waiting[op] = self.touched[op] = None

    def _check(self, node: Node, power: int) -> None:
        if node.op == "placeholder":
            raise NoSeamError(node, "an input")
        if not is_real(node):
            raise NoSeamError(node, "holds no floating-point numbers")
        if power > 0 and node not in self.seams.constants:
            raise NoSeamError(node, "a weight that is computed from inputs")
        if node.op == "get_attr" and self.seams.copies[str(node.target)] > 1:
            raise NoSeamError(node, "a tensor that is read under the same name elsewhere")

    def _explain(self, node: Node) -> None:
        """All that is known of the values around an op follows from its rule."""
        claims: dict[tuple[Node, int], torch.Tensor] = {}
        for user, power, units in list(self._claims(node)):
            claims[user, power] = units
        near = {*node.all_input_nodes, node, *(u for u in node.users if u.target is operator.getitem)}
        for (known, power), units in self.known.items():
            if known in near and not ((known, power) in claims and self.ties.same(claims[known, power], units)):
                raise NoSeamError(node, f"factors of {known.name} do not go through it")

    def _ends(self, power: int) -> tuple[End, ...]:
        weights = {n for op in self.touched for n in self._weights(op)}
        return tuple(
            End(str(node.target), torch.where(units < 0, units, self.ties.first[units]), node in weights)
            for (node, known), units in self.known.items()
            if known == power and node.op == "get_attr"
        )

    def _weights(self, op: Node) -> Iterable[Node]:
        """The tensors that the weight of a layer is made of."""
        form = FORMS.get(op.target)
        waiting = [op.args[form.weight]] if form is not None else []
        while waiting:
            node = waiting.pop()
            if isinstance(node, Node) and node in self.seams.constants:
                waiting += node.all_input_nodes
                yield node


def _around(node: Node) -> Iterable[Node]:
    """The op that makes a value, and those that read it."""
    if node.target is operator.getitem:
        yield node.args[0]  # type: ignore[misc] # the op that gives several values
    elif node.op == "call_function":
        yield node
    for user in node.users:
        if user.target not in SIZES:
            yield user
