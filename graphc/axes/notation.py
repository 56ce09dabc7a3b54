"""The one-line notation of rules: ``"... (g i) [h] [w], (g o) i [kh] [kw], (g o) -> ... (g o) [p] [q]"``.

Operands stand before the arrow, separated by commas, results after it; words are dims:

* ``c``      an axis; the same letter anywhere in the line is the same axis
* ``(g i)``  a product of axes, outer first
* ``[h]``    an axis that must stay whole (it is pinned)
* ``~c``     an axis that the op normalises or averages over (it is mixed)
* ``1``      a dim of size one
* ``...``    any number of leading dims, which broadcast
* ``_``      in place of an operand: this argument is not a tensor
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from graphc.axes.axis import Axis, Layout, factors, leaf, product
from graphc.axes.unify import Where, conflict, take, unify
from graphc.errors import GraphError

_WORD = re.compile(r"\.\.\.|\([^()]*\)|\[\w+\]|~?\w+|(?P<bad>\S)")

Bindings = dict[str, Axis | None]


@dataclass(frozen=True)
class Dim:
    """One word of the notation."""

    letters: tuple[str, ...]
    mark: str = ""  # "", "pin" or "mix"


@dataclass(frozen=True)
class Operand:
    """The dims of one tensor."""

    ellipsis: bool
    dims: tuple[Dim, ...]


@dataclass(frozen=True)
class Pattern:
    """A parsed line; an operand is None where the argument is not a tensor."""

    text: str
    operands: tuple[Operand | None, ...]
    results: tuple[Operand, ...]


@cache
def parse(text: str) -> Pattern:
    """Parse a line of notation.

    Raises:
        GraphError: quotes the line and the word that cannot be read.
    """
    left, arrow, right = text.partition("->")
    if not arrow:
        raise GraphError(f"cannot read the notation {text!r}", why="it has no '->'")
    operands = tuple(None if part.strip() == "_" else _operand(part, text) for part in left.split(","))
    results = tuple(_operand(part, text) for part in right.split(","))
    return Pattern(text, operands, results)


def _operand(part: str, text: str) -> Operand:
    dims: list[Dim] = []
    ellipsis = False
    for match in _WORD.finditer(part):
        word = match.group()
        if match.group("bad"):
            raise GraphError(f"cannot read the notation {text!r}", why=f"unexpected {word!r} in {part.strip()!r}")
        if word == "...":
            if dims or ellipsis:
                raise GraphError(f"cannot read the notation {text!r}", why="'...' must come first in an operand")
            ellipsis = True
        elif word[0] == "(":
            dims.append(Dim(tuple(word[1:-1].split())))
        elif word[0] == "[":
            dims.append(Dim((word[1:-1],), "pin"))
        elif word[0] == "~":
            dims.append(Dim((word[1:],), "mix"))
        else:
            dims.append(Dim(() if word == "1" else (word,)))
    return Operand(ellipsis, tuple(dims))


@dataclass
class Match:
    """One application of a pattern: letters bound to axes, and the leading dims."""

    pattern: Pattern
    bound: Bindings
    where: Where
    leading: Layout = ()

    def read(self, operand: Operand, layout: Layout) -> None:
        """Bind an operand's letters to a tensor's dims."""
        dims = operand.dims
        lead = len(layout) - len(dims)
        if lead < 0 or (lead and not operand.ellipsis):
            raise GraphError(
                f"the notation {self.pattern.text!r} does not fit its operand",
                where=self.where(),
                why=f"a tensor of {len(layout)} dims meets {len(dims)} words",
                hint="give the rule '...' for leading dims, or write it as a function",
            )
        if lead:
            self.leading = broadcast([self.leading, layout[:lead]], self.where)
        for dim, axis in zip(dims, layout[lead:], strict=True):
            if axis is None or len(dim.letters) == 1:
                for letter in dim.letters:
                    self._bind(letter, axis)
            elif dim.letters:
                self._bind_product(dim.letters, axis)
            if axis is not None and dim.mark == "pin":
                axis.pin(f"`{dim.letters[0]}` of {self.where()}")
            elif axis is not None and dim.mark == "mix":
                axis.mix()

    def _bind(self, letter: str, axis: Axis | None) -> None:
        known = self.bound.get(letter)
        if known is None:
            self.bound[letter] = axis
        elif axis is not None:
            unify(known, axis, self.where)

    def _bind_product(self, letters: tuple[str, ...], axis: Axis) -> None:
        sizes = [self._size(letter) for letter in letters]
        if sizes.count(0) == 1:
            sizes[sizes.index(0)] = axis.size // max(1, math.prod(s for s in sizes if s))
        queue = deque(factors(axis))
        parts = take(queue, sizes, self.where) if math.prod(sizes) == axis.size else None
        if parts is None:
            known = product(self.bound.get(letter) for letter in letters)
            conflict(axis, known or axis, self.where)
            parts = [leaf(size, f"conflict at {self.where()}") if size > 1 else None for size in sizes]
        for letter, part in zip(letters, parts, strict=True):
            self._bind(letter, part)

    def _size(self, letter: str) -> int:
        if letter not in self.bound:
            return 0
        axis = self.bound[letter]
        return 1 if axis is None else axis.size

    def write(self, operand: Operand, sizes: Callable[[], Sequence[int]]) -> Layout:
        """The layout of a result; letters not bound by an operand are new, pinned axes."""
        dims: list[Axis | None] = []
        for index, dim in enumerate(operand.dims):
            if any(letter not in self.bound for letter in dim.letters):
                (letter,) = dim.letters
                size = sizes()[index - len(operand.dims)]
                self.bound[letter] = None if size == 1 else leaf(size, f"`{letter}` of {self.where()}")
            bound = [self.bound[letter] for letter in dim.letters]
            dims.append(bound[0] if len(bound) == 1 else product(bound))
        return (*(self.leading if operand.ellipsis else ()), *dims)


def broadcast(layouts: Sequence[Layout], where: Where) -> Layout:
    """Align dims from the right and make them the same; size 1 gives way."""
    first = max(layouts, key=len)
    result = list(first)
    for layout in layouts:
        if layout is first:
            continue
        for i in range(1, len(layout) + 1):
            axis = layout[-i]
            if result[-i] is None:
                result[-i] = axis
            elif axis is not None:
                unify(result[-i], axis, where)
    return tuple(result)
