"""The rule table: for each op, which dims of its operands and results are the same axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

from graphc.axes.axis import Axis
from graphc.axes.notation import Match, Pattern, parse
from graphc.errors import GraphError
from graphc.rules.operation import Operation, Value

Flow = Callable[[Operation], Value]


@dataclass(frozen=True)
class Notation:
    """A rule written in one line.

    Attributes:
        pattern: which dims are the same axis.
        sizes: letters whose size is the number given as this argument (``groups``).
        roles: letters, and what their axes are to the rest of graphc.
        macs: monomials of letters (``"... o i"``) whose sum is the op's multiply-accumulates.
    """

    pattern: Pattern
    sizes: Mapping[str, int] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    macs: tuple[tuple[str, ...], ...] = ()

    def __call__(self, op: Operation) -> Value:
        """Apply the line to a node."""
        match = Match(self.pattern, {}, op.where)
        for letter, index in self.sizes.items():
            match.bound[letter] = self._given(op, index)
        for index, operand in enumerate(self.pattern.operands):
            layout = op.layout(index) if operand is not None else None
            if operand is not None and layout is not None:
                match.read(operand, layout)
        results = [match.write(r, partial(op.shape, i)) for i, r in enumerate(self.pattern.results)]
        for letter, role in self.roles.items():
            op.play(match.bound.get(letter), role)
        for monomial in self.macs:
            op.cost(*self._monomial(monomial, match))
        return results[0] if len(results) == 1 else tuple(results)

    def _given(self, op: Operation, index: int) -> Axis | None:
        size = op.number(op.arg(index, 1))
        if size == 1:
            return None
        axis = Axis(size)
        op.state((index,), axis)
        return axis

    @staticmethod
    def _monomial(letters: tuple[str, ...], match: Match) -> list[Axis | None]:
        axes: list[Axis | None] = []
        for letter in letters:
            axes += match.leading if letter == "..." else [match.bound.get(letter)]
        return axes


def line(
    text: str, *, sizes: Mapping[str, int] | None = None, roles: Mapping[str, str] | None = None, macs: str = ""
) -> Notation:
    """A line of notation as a flow; the arguments are those of ``rule``."""
    monomials = tuple(tuple(part.split()) for part in macs.split("+") if part.strip())
    return Notation(parse(text), dict(sizes or {}), dict(roles or {}), monomials)


RULES: dict[Any, Flow] = {}
"""By op; by name for an op of a library that need not be imported."""


def rule(
    ops: Any,
    notation: str | Flow,
    *,
    sizes: Mapping[str, int] | None = None,
    roles: Mapping[str, str] | None = None,
    macs: str = "",
) -> None:
    """Give one or more ops their rule.

    Args:
        ops: an op overload (``torch.ops.aten.linear.default``), its name where the library that has it
            need not be imported (``"library.op.default"``), or a sequence of them.
        notation: a line of notation (see ``graphc.axes.notation``), or a function of an
            ``Operation`` that returns the layout of the result.
        sizes: letters whose size is the argument at this position.
        roles: letters and the role of their axes, which gives them their name.
        macs: monomials of letters, joined by ``+``: the op's multiply-accumulates.

    Raises:
        GraphError: the notation cannot be read, or the op has a rule already.
    """
    flow = line(notation, sizes=sizes, roles=roles, macs=macs) if isinstance(notation, str) else notation
    for op in ops if isinstance(ops, (list, tuple)) else [ops]:
        if op in RULES:
            raise GraphError(f"cannot add a rule for {op}", why="it has one already")
        RULES[op] = flow


def rule_of(op: Any) -> Flow | None:
    """The rule of an op, if it has one."""
    return RULES.get(op) or RULES.get(str(op))


@cache
def load_installed_rules() -> None:
    """Import the modules of the entry-point group ``graphc.rules``: their rules add themselves.

    Raises:
        GraphError: one of them does not import.
    """
    for point in entry_points(group="graphc.rules"):
        try:
            point.load()
        except ImportError as error:
            raise GraphError(f"the rules {point.name!r} do not load", where=point.value, why=str(error)) from error
