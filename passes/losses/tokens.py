"""A loss that compares the next-token distributions of language models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from graphc.pipeline.objective import IGNORED, counted, precise

from .divergence import Temperature, kl
from .labels import following
from .loss import OfOutputs, Seen
from .pairs import PositionLoss, fitting, no_pair, pair


@dataclass(frozen=True, kw_only=True)
class TokenKl(PositionLoss, OfOutputs):
    """Divergence of next-token distributions, ``T^2 D(softmax(t / T), softmax(s / T))``, the mean over tokens.

    With p the teacher's and q the student's, D is

    - forward: ``KL(p || q)`` (Hinton et al. 2015), which covers all that the teacher may say;
    - reverse: ``KL(q || p)`` (Gu et al. 2024, MiniLLM), which seeks its modes;
    - js: ``beta KL(p || m) + (1 - beta) KL(q || m)`` with ``m = beta p + (1 - beta) q``, the generalised
      Jensen-Shannon divergence (Agarwal et al. 2024, GKD).

    Logits are ``[batch, tokens, vocabulary]``. Labels ``[batch, tokens]`` only say what counts: tokens
    whose label is not -100; with ``shift``, those whose next label is not, as in causal models of Hugging
    Face. Without labels, all that are not padding count. Log-probabilities are computed in float32 for
    ``chunk`` tokens at a time, and anew in the backward pass, so that memory does not grow with the batch.
    """

    type: ClassVar[str] = "token-kl"
    divergence: Annotated[
        Literal["forward", "reverse", "js"],
        Field(description="KL(teacher || student), KL(student || teacher), or both."),
    ] = "forward"
    temperature: Temperature = 1.0
    beta: Annotated[float, Field(gt=0, lt=1, description="Share of the teacher in the mixture of js.")] = 0.5
    shift: Annotated[bool, Field(description="Logits at a token are of the next label (causal models).")] = True
    chunk: Annotated[int, Field(ge=1, description="Tokens whose log-probabilities are held at a time.")] = 512

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over tokens that count.

        Raises:
            RecipeError: the shapes are others.
        """
        student, teacher, keep = self._tokens(seen)
        parts = zip(*(torch.split(value.flatten(0, 1), self.chunk) for value in (student, teacher)), strict=True)
        total = student.new_zeros((), dtype=precise(student[:0]).dtype)
        for (one, other), kept in zip(parts, torch.split(keep.flatten(), self.chunk), strict=True):
            part: Tensor = checkpoint(self._sum, one, other, kept, use_reentrant=False, preserve_rng_state=False)
            total = total + part
        return self.temperature**2 * total / keep.sum().clamp(min=1)

    def count(self, labels: Any, mask: Tensor | None, samples: int) -> float:
        """Tokens that count."""
        if not isinstance(labels, Tensor):
            return super().count(labels, mask, samples)
        return float(counted(following(labels) if self.shift else labels))

    def _tokens(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of both as they come, and which tokens count, bool ``[batch, tokens]``."""
        student, teacher = pair(seen, self)
        if student.dim() != 3 or student.shape != teacher.shape:
            why = "it takes [batch, tokens, vocabulary], the same for both"
            raise no_pair(self, student, teacher, why, "both need one tokenizer")
        if seen.labels is None:
            mask = fitting(seen.mask, student.shape)
            return student, teacher, student.new_ones(student.shape[:2], dtype=torch.bool) if mask is None else mask
        labels = following(seen.labels) if self.shift else seen.labels
        if not isinstance(labels, Tensor) or labels.shape != student.shape[:2]:
            shown = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise no_pair(self, student, teacher, f"labels are [batch, tokens], and these are {shown}")
        return student, teacher, labels != IGNORED

    def _sum(self, student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
        """The sum of the divergence over some tokens, of logits ``[tokens, vocabulary]``."""
        p, q = ((precise(z[keep]) / self.temperature).log_softmax(-1) for z in (teacher, student))
        if self.divergence == "forward":
            return kl(p, q).sum()
        if self.divergence == "reverse":
            return kl(q, p).sum()
        mixed = self.beta * p.exp() + (1 - self.beta) * q.exp()
        mixed = mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()
        return (self.beta * kl(p, mixed) + (1 - self.beta) * kl(q, mixed)).sum()
