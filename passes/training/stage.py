"""Stage: a student with its losses and projections, as one module for one step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from graphc.errors import RecipeError
from graphc.ir.contract import Contract
from graphc.ir.program import Program
from graphc.pipeline.batches import Batch

from ..losses import Seen
from ..losses.pairs import fitting
from .terms import Place, Reader, Term

MASK = "attention_mask"
"""The input that says which tokens are padding, by the name that Hugging Face's models give it."""

Teachings = list[list[tuple[Tensor, ...]]]
"""For each term and each of its places what the teacher has there."""


class Stage(nn.Module):
    """The student in training mode, and what its values are compared by.

    Args:
        program: the student, in training mode; its tensors are trained.
        terms: the losses.
    """

    def __init__(self, program: Program, terms: Sequence[Term]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.reader = Reader(program, [place for term in terms for place in term.student])
        self.student = self.reader.module
        self.projections = nn.ModuleDict()
        self.by_token = [False] * len(self.terms)
        self.lessons: Teachings = [[] for _ in self.terms]
        self.contract = program.contract

    def read(self, batch: Batch) -> Teachings:
        """The student's values for a batch."""
        outputs, values = self.student(*batch.args, **batch.kwargs)
        return apart(self.reader.read(outputs, values, batch.size), [len(term.student) for term in self.terms])

    def forward(self, batch: Batch, teacher: Teachings, factors: Sequence[float]) -> Tensor:
        """The terms ``[len(terms)]``, each times its factor; one of factor 0 is left out.

        A lesson compares with what the student had when the lesson was last left out.

        Args:
            batch: inputs and labels.
            teacher: what the teacher has at its places.
            factors: of each term.
        """
        mask = padding(self.contract, batch)
        found: list[Tensor] = []
        for i, (term, own, other) in enumerate(zip(self.terms, self.read(batch), teacher, strict=True)):
            if term.lesson and factors[i] == 0:
                self.lessons[i] = [tuple(value.detach() for value in values) for values in own]
            if factors[i] == 0:
                found.append(own[0][0].float().sum() * 0)
                continue
            other = self.lessons[i] if term.lesson else other
            total: Tensor | None = None
            for j, values in enumerate(own):
                projected = tuple(self._project(f"{i}_{j}", value) for value in values)
                seen = Seen(projected, other[j] if other else (), batch.labels, mask)
                value = term.loss(seen)
                total = value if total is None else total + value
            assert total is not None
            found.append(total * factors[i])
        return torch.stack(found)

    def counts(self, batch: Batch) -> list[float]:
        """How many entries the mean of each term is over."""
        mask = padding(self.contract, batch)
        return [
            term.loss.count(batch.labels, mask if tokens else None, batch.size)
            for term, tokens in zip(self.terms, self.by_token, strict=True)
        ]

    def _project(self, name: str, value: Tensor) -> Tensor:
        projected: Tensor = self.projections[name](value) if name in self.projections else value
        return projected

    def fit(self, batch: Batch, own: Teachings, teacher: Teachings) -> None:
        """See from a first batch which terms are over tokens, and make projections.

        There is one wherever a loss wants both sides of one size and they are not.

        Raises:
            RecipeError: values differ by more than one dim.
        """
        mask = padding(self.contract, batch)
        for i, term in enumerate(self.terms):
            self.by_token[i] = by_token(own[i][0][0], mask, term.student[0])
            if not term.loss.fits:
                continue
            for j, (mine, other) in enumerate(zip(own[i], teacher[i], strict=True)):
                layer = projection(mine[0], other[0], term, j)
                if layer is not None:
                    self.projections[f"{i}_{j}"] = layer.to(mine[0].device)


def projection(own: Tensor, other: Tensor, term: Term, pair: int) -> nn.Module | None:
    """A linear map of the channels of one value to those of another: 1 x 1 for maps; None if they are as many.

    Channels are the last dim if only that differs, else dim 1 of maps, whose height and width may differ too.

    Raises:
        RecipeError: the values differ in another way.
    """
    differ = [i for i in range(1, own.dim()) if own.dim() == other.dim() and own.shape[i] != other.shape[i]]
    maps = own.dim() == 4
    if own.dim() == other.dim() and (not differ or (maps and differ[0] > 1 and differ != [3])):
        return None
    if own.dim() == other.dim() and differ == [own.dim() - 1]:
        return nn.Linear(own.shape[-1], other.shape[-1], bias=False)
    if own.dim() == other.dim() and maps:
        return nn.Conv2d(own.shape[1], other.shape[1], 1, bias=False)
    what = f"{term.student[pair].name} cannot be compared with {term.teacher[pair].name} of the teacher"
    why = f"the one is {list(own.shape)}, the other {list(other.shape)}"
    raise RecipeError(what, where=f"loss {term.name}", why=why)


def apart(flat: Sequence[tuple[Tensor, ...]], counts: Sequence[int]) -> Teachings:
    """Values in one row as those of each term, of which there are so many."""
    left = iter(flat)
    return [list(islice(left, count)) for count in counts]


def padding(contract: Contract, batch: Batch) -> Tensor | None:
    """True for tokens, False for padding, ``[batch, tokens]``, if the program takes such a mask."""
    names = [spec.name for spec in contract.inputs]
    if MASK not in names:
        return None
    leaves = torch.utils._pytree.tree_leaves((batch.args, dict(batch.kwargs)))
    value = leaves[names.index(MASK)]
    return value != 0 if isinstance(value, Tensor) and value.dim() == 2 else None


def by_token(value: Tensor, mask: Tensor | None, place: Place) -> bool:
    """Is a value of masked tokens: ``[batch, tokens, channels]``, or ``[batch, heads, tokens, size]`` of attention?"""
    if place.attention is not None:
        return mask is not None and value.shape[2] == mask.shape[1]
    return fitting(mask, value.shape) is not None
