"""Variants: the forms in which each batch of a step trains the program, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from graphc.errors import RecipeError

from ..during.hook import Actions, Variant
from .terms import Term

WHOLE = Variant(lambda: None)
"""The program as it is."""


def variants_of(actions: Sequence[Actions], seed: int, step: int, steps: int) -> Sequence[Variant]:
    """The forms of a step: those of the hook that has some, or the program as it is.

    Raises:
        RecipeError: several hooks have some.
    """
    given = [action.variants for action in actions if action.variants is not None]
    if len(given) > 1:
        raise RecipeError("only one hook can train the program in several forms", where="during")
    return given[0](seed, step, steps) if given else (WHOLE,)


def each(variants: Sequence[Variant], statistics: Sequence[Tensor]) -> Iterator[Variant]:
    """The program in each form; those that do not count leave the running statistics as they were."""
    for variant in variants:
        with torch.no_grad():
            variant.begin()
        before = [] if variant.counted else [value.clone() for value in statistics]
        yield variant
        with torch.no_grad():
            for value, old in zip(statistics, before, strict=False):
                value.copy_(old)


def factors_of(
    variant: Variant, terms: Sequence[Term], factors: Sequence[float], variants: Sequence[Variant]
) -> list[float]:
    """What terms are multiplied by in one of several forms, so that the step has the mean over all."""
    return [
        factor / len(variants) if term.lesson == variant.taught else 0.0
        for term, factor in zip(terms, factors, strict=True)
    ]


def figures_of(terms: Sequence[Term], values: Tensor, variants: Sequence[Variant]) -> dict[str, float]:
    """For the log the mean of each loss over the forms that have it, before its weight; 0 if none has."""
    counts = [sum(term.lesson == variant.taught for variant in variants) for term in terms]
    return {
        f"loss {term.name}": value * len(variants) / (term.loss.weight * max(1, count))
        for term, value, count in zip(terms, values.tolist(), counts, strict=True)
    }
