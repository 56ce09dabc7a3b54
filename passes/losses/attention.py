"""Losses that compare where networks look: maps of their activations, and relations within attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from graphc.errors import RecipeError
from graphc.pipeline.objective import channel_dim, precise

from ..importance.attention import repeat_heads
from .divergence import kl
from .loss import OfFeatures, Reads, Seen
from .pairs import PositionLoss, average, fitting, no_pair, pooled, precise_pair, product, unit

Relation = Literal["qk", "qq", "kk", "vv"]


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer(PositionLoss, OfFeatures):
    """Attention transfer (Zagoruyko and Komodakis 2017): the mean of ``(Q_s / |Q_s| - Q_t / |Q_t|)^2``.

    ``Q`` is the map of a sample, the mean of squared activations over channels, as one vector of its
    positions: pixels of ``[batch, channels, height, width]``, tokens of ``[batch, tokens, channels]`` without
    padding. Channels may differ; the larger of two maps is averaged to the size of the smaller. The mean is
    over positions and samples; several layers are several losses.
    """

    type: ClassVar[str] = "attention-transfer"

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over positions.

        Raises:
            RecipeError: the features have no positions, or others.
        """
        student, teacher = pooled(*precise_pair(seen, self))
        if student.dim() not in (3, 4) or teacher.dim() != student.dim():
            why = "it takes [batch, channels, height, width] or [batch, tokens, channels]"
            raise no_pair(self, student, teacher, why)
        mask = fitting(seen.mask, student.shape)
        maps = [_map(value, fitting(seen.mask, value.shape)) for value in (student, teacher)]
        if maps[0].shape != maps[1].shape:
            raise no_pair(self, student, teacher, "they have other positions")
        gap = (maps[0] - maps[1]).square()
        return average(gap if mask is None else gap[mask])


@dataclass(frozen=True, kw_only=True)
class AttentionRelation(PositionLoss, OfFeatures):
    """MiniLM (Wang et al. 2020; MiniLMv2 2021): the sum over relations of ``KL(R_t || R_s)``.

    A relation of two of queries, keys and values is ``R_ab = softmax(a b^T / sqrt(size))``, over tokens of
    each head. MiniLM compares qk and vv, which needs as many heads in the student as in the teacher, of any
    size. MiniLMv2 compares qq, kk and vv, with ``relation_heads``: heads are joined and split into so many.
    All are ``[batch, heads, tokens, size]``; keys and values with fewer heads than queries are repeated
    (grouped-query attention). The mean is over heads and over tokens that are not padding; padding is not
    looked at either.
    """

    type: ClassVar[str] = "attention-relation"
    reads: ClassVar[Reads] = "attention"
    relations: Annotated[tuple[Relation, ...], Field(min_length=1, description="Which are compared.")] = ("qk", "vv")
    relation_heads: Annotated[int | None, Field(ge=1, description="Split into so many; None: as they are.")] = None

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over heads and tokens.

        Raises:
            RecipeError: heads or tokens differ, or do not divide.
        """
        if len(seen.student) != 3 or len(seen.teacher) != 3:
            why = "it takes queries, keys and values of student and teacher"
            raise RecipeError(f"the loss {self.type} has no attention to look at", where=f"loss {self.type}", why=why)
        student, teacher = (self._heads(side) for side in (seen.student, seen.teacher))
        total = student["q"].new_zeros(())
        for a, b in self.relations:
            scores = [_scores(side[a], side[b]) for side in (teacher, student)]
            if scores[0].shape != scores[1].shape:
                why = f"the relation {a}{b} has other heads or tokens"
                hint = "where heads differ, set relation_heads to a number that divides the widths of both"
                raise no_pair(self, student[a], teacher[a], why, hint)
            total = total + average(kl(*(_logs(relation, seen.mask) for relation in scores)))
        return total

    def _heads(self, values: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Queries, keys and values by their letters, of equally many heads."""
        query = values[0]
        found: dict[str, Tensor] = {}
        for letter, value in zip("qkv", values, strict=True):
            if value.dim() != 4 or query.shape[1] % value.shape[1]:
                why = f"{letter} is {list(value.shape)} beside queries {list(query.shape)}"
                raise RecipeError(f"the loss {self.type} cannot read attention", where=f"loss {self.type}", why=why)
            found[letter] = self._split(repeat_heads(precise(value), query))
        return found

    def _split(self, value: Tensor) -> Tensor:
        """The heads joined and split into ``relation_heads``."""
        if self.relation_heads is None:
            return value
        joined = value.transpose(1, 2).flatten(2)
        if joined.shape[2] % self.relation_heads:
            why = f"heads of {list(value.shape)} have {joined.shape[2]} channels in all"
            what = f"the loss {self.type} cannot split them into {self.relation_heads} heads"
            raise RecipeError(what, where=f"loss {self.type}", why=why, hint="relation_heads must divide both widths")
        return joined.reshape(*joined.shape[:2], self.relation_heads, -1).transpose(1, 2)


def _scores(first: Tensor, second: Tensor) -> Tensor:
    """Scaled products, ``[batch, heads, tokens, tokens]``."""
    return product(first, second.transpose(2, 3)) / math.sqrt(first.shape[3])


def _logs(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Log-probabilities of scores ``[batch, heads, queries, keys]``, as ``[..., heads, keys]`` of queries that count.

    A mask is of queries, of keys or of both, by their number of tokens.
    """
    by_query = scores.transpose(1, 2)
    if mask is not None and mask.shape == (len(scores), scores.shape[3]):
        by_query = by_query.masked_fill(~mask[:, None, None], -math.inf)
    if mask is not None and mask.shape == by_query.shape[:2]:
        by_query = by_query[mask]
    return by_query.log_softmax(-1)


def _map(value: Tensor, mask: Tensor | None) -> Tensor:
    """The map of each sample, ``[batch, positions]``, of length 1; 0 at padding."""
    if mask is not None:
        value = value.masked_fill(~mask[..., None], 0)
    return unit(value.square().mean(channel_dim(value)).flatten(1), 1)
