"""Losses against the labels of the data; they need no teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from graphc.errors import RecipeError
from graphc.pipeline.objective import IGNORED, counted, cross_entropy, mse

from .loss import OfOutputs, Seen


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(OfOutputs):
    """Cross-entropy with labels: the mean of ``-log softmax(z)[y]`` over labels that are not -100.

    Logits are ``[batch, classes]``, ``[batch, tokens, classes]`` or ``[batch, classes, height, width]``;
    labels are integers of the shape without the classes, or probabilities of the logits' shape. With
    ``shift``, logits at token t are compared with the label at t + 1, as in Hugging Face's causal models,
    where labels are the input ids. ``label_smoothing`` s mixes the labels with the uniform distribution,
    ``(1 - s) y + s / classes`` (Szegedy et al. 2016).
    """

    type: ClassVar[str] = "cross-entropy"
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    label_smoothing: Annotated[float, Field(ge=0, le=1, description="Share of the uniform distribution.")] = 0.0
    shift: Annotated[bool, Field(description="Logits at a token predict the next label (causal models).")] = False

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over labels.

        Raises:
            RecipeError: labels do not fit the logits.
        """
        labels = following(seen.labels) if self.shift else seen.labels
        return cross_entropy(seen.student[0], labels, label_smoothing=self.label_smoothing)

    def count(self, labels: Any, mask: Tensor | None, samples: int) -> float:
        """Labels that are not -100; rows, if they are probabilities."""
        if not isinstance(labels, Tensor):
            return float(samples)
        return float(counted(following(labels) if self.shift else labels))


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(OfOutputs):
    """Mean squared error against labels of the output's shape, for regression: the mean of ``(z - y)^2``."""

    type: ClassVar[str] = "mse"
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def __call__(self, seen: Seen) -> Tensor:
        """The mean over all elements.

        Raises:
            RecipeError: the shapes differ.
        """
        return mse(seen.student[0], seen.labels)

    def count(self, labels: Any, mask: Tensor | None, samples: int) -> float:
        """Elements of the labels."""
        return float(labels.numel() if isinstance(labels, Tensor) else samples)


def following(labels: Any) -> Tensor:
    """Of each token the label that comes next, ``[batch, tokens]``; -100 for the last, which has none.

    Raises:
        RecipeError: the labels are not one integer a token.
    """
    if isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point():
        return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    shown = f"{labels.dtype}{list(labels.shape)}" if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
    why, hint = f"labels are {shown}", "labels must be integers [batch, tokens]; or write shift: false"
    raise RecipeError("labels cannot be shifted by a token", where="data", why=why, hint=hint)
