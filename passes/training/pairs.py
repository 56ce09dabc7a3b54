"""Pairs: which blocks of a student are compared with which blocks of its teacher."""

from __future__ import annotations

import re
from collections import Counter
from typing import get_args

from graphc.coupling.regions import stack_of
from graphc.errors import RecipeError, nearest
from graphc.ir.program import Program

from ..losses.loss import Pairing
from .taps import find_exits, find_learned, find_regions


def pairs(student: Program, teacher: Program, how: Pairing) -> list[tuple[str, str]]:
    """Module paths, of the student and of the teacher, whose values are to be alike; in the teacher's order.

    Args:
        how: ``auto``: each block that the student still has with the same block of the teacher;
            ``absorb``: a block after which others of its stack were removed with the last of these,
            so that it gives what the next block expects; ``last``: the last block of each.

    Raises:
        RecipeError: a program has no numbered module, or both have none in common.
    """
    if how not in get_args(Pairing):
        raise RecipeError(f"no way of pairing is called {how!r}", where="pairs", hint=nearest(how, get_args(Pairing)))
    known, ours = find_blocks(teacher), find_blocks(student)
    for blocks, who in ((known, "teacher"), (ours, "student")):
        if not blocks:
            why = "no numbered module, such as encoder.layer.3, gives a single tensor"
            raise RecipeError(f"the {who} has no blocks to pair", where="pairs", why=why, hint=_HINT)
    if how == "last":
        return [(ours[-1], known[-1])]
    left = find_regions(student.graph)
    learned = find_learned(student)
    kept = [block for block in known if not learned.isdisjoint(left.get(block, ()))]
    if not kept:
        why = f"the student has {nearest('', ours)}; the teacher has {nearest('', known)}"
        raise RecipeError("student and teacher have no block in common", where="pairs", why=why, hint=_HINT)
    return [(block, _absorbed(block, known, kept) if how == "absorb" else block) for block in kept]


_HINT = "write the modules to pair, as [student, teacher]"


def find_blocks(program: Program) -> list[str]:
    """Paths of the blocks of a program in graph order: ``encoder.layer.3``, ``layer1.0``, ``features.4``.

    Blocks are numbered modules that a single value leaves, besides masks and tables of positions.
    Those come first that have modules within and that are several, then those that a word ends with
    (``encoder_layer_3``), then single layers, then what is not several; of nested ones the outermost.
    """
    learned = find_learned(program)
    regions = find_regions(program.graph)
    exits = {path: [node for node in find_exits(regions[path]) if node in learned] for path in regions}
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    numbered = [path for path in regions if stack_of(path) != path and len(exits[path]) == 1]
    outer = {path[: dot.start()] for path in regions for dot in re.finditer(r"\.", path)}
    several = Counter(map(_level, numbered))
    for plain, whole, many in _PREFERRED:
        found = [
            path
            for path in numbered
            if (path.rpartition(".")[2].isdigit() or not plain)
            and (path in outer or not whole)
            and (several[_level(path)] > 1 or not many)
        ]
        if found:
            taken = [path for path in found if not any(path.startswith(f"{around}.") for around in found)]
            return sorted(taken, key=lambda path: order[exits[path][0]])
    return []


_PREFERRED = ((True, True, True), (False, True, True), (True, False, True), (True, True, False), (True, False, False))
"""Kinds of blocks, best first: named by a number alone, with modules within, several of a kind."""


def _level(path: str) -> str:
    """What a block has in common with others, of its stack and of like stacks: ``layer*.*``."""
    return ".".join(f"{stack_of(part)}*" if stack_of(part) != part else part for part in path.split("."))


def _absorbed(block: str, known: list[str], kept: list[str]) -> str:
    """The last of the removed blocks that follow one in its stack; itself if the next is still there."""
    stack = [other for other in known if stack_of(other) == stack_of(block)]
    for other in stack[stack.index(block) + 1 :]:
        if other in kept:
            break
        block = other
    return block
