"""Losses that compare outputs: what the teacher answers is what the student learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from graphc.pipeline.objective import IGNORED, counted

from .divergence import Temperature, kl
from .loss import Loss, OfOutputs, Seen
from .pairs import PositionLoss, average, no_pair, precise_pair, rows


@dataclass(frozen=True, kw_only=True)
class KullbackLeibler(PositionLoss, OfOutputs):
    """Knowledge distillation (Hinton et al. 2015): ``T^2 KL(softmax(t / T) || softmax(s / T))``.

    ``T^2`` keeps the size of gradients independent of the temperature. The mean is over samples for
    logits ``[batch, classes]``, over tokens that are not padding for ``[batch, tokens, classes]``, and
    over pixels for maps ``[batch, classes, height, width]``. For language models see token-kl.
    """

    type: ClassVar[str] = "kl"
    temperature: Temperature = 4.0

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over positions.

        Raises:
            RecipeError: the shapes differ, or there is one class only.
        """
        student, teacher = _logits(seen, self)
        logs = [(logits / self.temperature).log_softmax(-1) for logits in (teacher, student)]
        return self.temperature**2 * average(kl(*logs))


@dataclass(frozen=True, kw_only=True)
class LogitsMse(PositionLoss, OfOutputs):
    """Squared difference of logits before the softmax (Ba and Caruana 2014): the mean of ``(s - t)^2``.

    The mean is over classes and over positions, which are those of kl. The paper sums over classes and
    halves; that is a matter of the weight. It serves for regression too, also of outputs ``[batch]``.
    """

    type: ClassVar[str] = "logits-mse"

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over positions and classes.

        Raises:
            RecipeError: the shapes differ.
        """
        student, teacher = rows(*precise_pair(seen, self), seen.mask, self)
        return average((student - teacher).square())


@dataclass(frozen=True, kw_only=True)
class Decoupled(OfOutputs):
    """Decoupled knowledge distillation (Zhao et al. 2022): ``T^2 (alpha TCKD + beta NCKD)``.

    TCKD is the divergence between teacher and student of the two probabilities (the label's class, any
    other); NCKD that among the other classes, renormalised without the label's: how sure the teacher is
    does not weigh the latter, as it does in kl. Logits are ``[batch, classes]`` and labels integers
    ``[batch]``; the mean is over samples whose label is not -100.
    """

    type: ClassVar[str] = "dkd"
    needs_labels: ClassVar[bool] = True
    temperature: Temperature = 4.0
    alpha: Annotated[float, Field(ge=0, description="Weight of the label's class against all others.")] = 1.0
    beta: Annotated[float, Field(ge=0, description="Weight of the classes that are not the label's.")] = 8.0

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over samples with a label.

        Raises:
            RecipeError: the shapes are others, or there is one class only.
        """
        student, teacher = _logits(seen, self)
        labels = seen.labels
        fits = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape == student.shape[:1]
        if not fits or seen.student[0].dim() != 2:
            shown = f"{labels.dtype}{list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            why = f"it takes logits [batch, classes] and integer labels [batch], and these are {shown}"
            raise no_pair(self, seen.student[0], seen.teacher[0], why)
        keep = labels != IGNORED
        first, second = (self._logs(logits[keep], labels[keep]) for logits in (teacher, student))
        target, others = (kl(p, q) for p, q in zip(first, second, strict=True))
        return self.temperature**2 * average(self.alpha * target + self.beta * others)

    def count(self, labels: Any, mask: Tensor | None, samples: int) -> float:
        """Samples whose label is not -100."""
        return float(counted(labels)) if isinstance(labels, Tensor) else float(samples)

    def _logs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (label, not label), ``[n, 2]``, and among the other classes, ``[n, classes - 1]``."""
        logits = logits / self.temperature
        target = F.one_hot(labels.long(), logits.shape[1]).bool()
        others = logits[~target].view(len(logits), logits.shape[1] - 1)
        two = torch.stack([logits[target], others.logsumexp(1)], 1)
        return two.log_softmax(1), others.log_softmax(1)


def _logits(seen: Seen, loss: Loss) -> tuple[Tensor, Tensor]:
    """Rows of logits, of two classes at least."""
    student, teacher = rows(*precise_pair(seen, loss), seen.mask, loss)
    if student.shape[1] < 2:
        why = "a softmax over one class is always 1"
        raise no_pair(loss, seen.student[0], seen.teacher[0], why, "use logits-mse")
    return student, teacher
