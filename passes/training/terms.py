"""Terms: what each loss reads of the student and of the teacher, found before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from graphc.errors import RecipeError, nearest
from graphc.ir.program import Program
from graphc.ir.taps import tapped

from ..losses import Loss
from ..losses.loss import OfFeatures, OfOutputs
from .attention import Attention, find_attention, find_attention_at
from .pairs import pairs
from .taps import find_tap


@dataclass(frozen=True)
class Place:
    """Where a loss reads: an output by its position among all, or nodes; queries, keys and values if three.

    Attributes:
        name: for errors.
        output: position of the output; None for nodes.
        nodes: names of nodes.
        attention: whether they are what enters an attention.
    """

    name: str
    output: int | None = None
    nodes: tuple[str, ...] = ()
    attention: Attention | None = None


@dataclass(frozen=True)
class Term:
    """A loss with its places: for each pair one of the student and, unless it needs no teacher, one of the teacher.

    A lesson has no teacher: it compares with the student itself, as the first variant of a step is.
    """

    name: str
    loss: Loss
    student: tuple[Place, ...]
    teacher: tuple[Place, ...] = ()
    lesson: bool = False


class Reader:
    """Runs a program and gives what is read at some places.

    Args:
        program: whose tensors it uses.
        places: what to read.
    """

    def __init__(self, program: Program, places: Sequence[Place]) -> None:
        self.places = tuple(places)
        names = list(dict.fromkeys(name for place in places for name in place.nodes))
        self.index = {name: i for i, name in enumerate(names)}
        self.module: GraphModule = tapped(program, names)

    def read(self, outputs: Any, values: Sequence[Tensor], batch: int) -> list[tuple[Tensor, ...]]:
        """What is at each place, from what the module gave for so many samples."""
        flat = pytree.tree_leaves(outputs)
        found: list[tuple[Tensor, ...]] = []
        for place in self.places:
            if place.output is not None:
                found.append((flat[place.output],))
            elif place.attention is not None:
                found.append(place.attention.qkv([values[self.index[name]] for name in place.nodes], batch))
            else:
                found.append((values[self.index[place.nodes[0]]],))
        return found


def find_terms(losses: Sequence[Loss], student: Program, teacher: Program | None) -> list[Term]:
    """Where each loss reads.

    Raises:
        RecipeError: a loss needs a teacher and there is none, a name speaks of nothing (names the
            nearest), or nothing pairs.
    """
    names: dict[str, int] = {}
    terms: list[Term] = []
    for i, loss in enumerate(losses):
        count = names[loss.type] = names.get(loss.type, 0) + 1
        name = loss.type if count == 1 else f"{loss.type}-{count}"
        if loss.needs_teacher and teacher is None:
            hint = "use the pass distill, which has a teacher"
            raise RecipeError(f"the loss {loss.type} needs a teacher", where=f"losses[{i}]", hint=hint)
        own, other = _places(loss, student, teacher if loss.needs_teacher else None, f"losses[{i}]")
        terms.append(Term(name, loss, tuple(own), tuple(other)))
    return terms


def find_lessons(losses: Sequence[Loss], student: Program) -> list[Term]:
    """Where losses read by which a student teaches itself.

    Raises:
        RecipeError: a name speaks of nothing.
    """
    terms = find_terms(losses, student, student)
    return [Term(f"lesson {term.name}", term.loss, term.student, lesson=True) for term in terms]


def _places(loss: Loss, student: Program, teacher: Program | None, where: str) -> tuple[list[Place], list[Place]]:
    if isinstance(loss, OfOutputs):
        own = _output(student, loss.output, where)
        return [own], [_counterpart(teacher, own, loss.output, where)] if teacher is not None else []
    if not isinstance(loss, OfFeatures) or teacher is None:
        raise RecipeError(f"{loss.type} says neither what outputs nor what features it reads", where=where)
    find = _attention if loss.reads == "attention" else _feature
    found = loss.chosen()
    if isinstance(found, str):
        found = attentions(student, teacher, found) if loss.reads == "attention" else pairs(student, teacher, found)
    return [find(student, s) for s, _ in found], [find(teacher, t) for _, t in found]


def _output(program: Program, name: str | None, where: str) -> Place:
    """An output by name; by default the first one of floats."""
    specs = program.contract.outputs
    for i, spec in enumerate(specs):
        if spec.name == name or (name is None and spec.dtype is not None and spec.dtype.is_floating_point):
            return Place(spec.name, output=i)
    if name is None:
        raise RecipeError("the program gives no floating-point output", where=where)
    raise RecipeError(f"no output is called {name!r}", where=where, hint=nearest(name, [s.name for s in specs]))


def _counterpart(teacher: Program, own: Place, name: str | None, where: str) -> Place:
    """The teacher's output of the same name; where none is asked for, its first one of floats may do."""
    same = any(spec.name == own.name for spec in teacher.contract.outputs)
    return _output(teacher, own.name if same else name, where)


def _feature(program: Program, name: str) -> Place:
    return Place(name, nodes=(find_tap(program, name).name,))


def _attention(program: Program, path: str) -> Place:
    found = find_attention_at(program, path)
    return Place(path, nodes=found.nodes, attention=found)


def attentions(student: Program, teacher: Program, how: str) -> list[tuple[str, str]]:
    """Module paths of attention in both: those that both have (auto), or the last of each.

    Raises:
        RecipeError: there are none.
    """
    own, other = ([a.path for a in find_attention(program)] for program in (student, teacher))
    if not own or not other:
        raise RecipeError("the programs have no attention that can be read", where="losses", why=f"{own}, {other}")
    if how == "last":
        return [(own[-1], other[-1])]
    common = [(path, path) for path in own if path in other]
    if not common:
        raise RecipeError("the programs have no attention in common", where="losses", hint="name student and teacher")
    return common
