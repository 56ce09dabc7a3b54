"""Divergence of distributions given by their log-probabilities."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

Temperature = Annotated[float, Field(gt=0, description="Divides logits; its square multiplies the loss.")]


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``sum_i p_i (log p_i - log q_i)`` of log-probabilities ``[..., classes]``.

    Classes that p rules out (``log p = -inf``) add nothing, also where q rules them out.
    """
    gap = (first - second).masked_fill(first.isneginf(), 0)
    return (first.exp() * gap).sum(-1)
