from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graphc.passes.losses import CrossEntropy, MeanSquaredError, Seen
from torch import Tensor

from graphc.errors import RecipeError
from tests.passes.losses.reference import draw, mean, softmax


def entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> float:
    """Of logits [n, classes] and labels [n]."""
    terms = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label != -100:
            target = [smoothing / len(row) + (1 - smoothing) * (i == label) for i in range(len(row))]
            terms.append(-sum(t * math.log(p) for t, p in zip(target, softmax(row), strict=True)))
    return mean(terms)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("logits", "labels", "rows"),
    [
        (draw(3, 4), torch.tensor([1, -100, 3]), draw(3, 4)),
        (draw(2, 2, 4), torch.tensor([[1, -100], [3, 0]], dtype=torch.int32), draw(2, 2, 4).flatten(0, 1)),
        (draw(2, 4, 3, 2), torch.arange(12).view(2, 3, 2) % 4, draw(2, 4, 3, 2).permute(0, 2, 3, 1).flatten(0, 2)),
        (draw(2, 3, 2, 4), torch.arange(12).view(2, 3, 2) % 4, draw(2, 3, 2, 4).flatten(0, 2)),
    ],
    ids=["classes", "tokens", "maps", "maps with classes last"],
)
def test_cross_entropy(logits: Tensor, labels: Tensor, rows: Tensor, smoothing: float) -> None:
    found = CrossEntropy(label_smoothing=smoothing)(Seen((logits,), labels=labels))
    assert float(found) == pytest.approx(entropy(rows, labels.flatten(), smoothing), rel=1e-12)


def test_classes_of_square_maps_are_dim_1() -> None:
    logits, labels = draw(2, 3, 3, 3), torch.arange(18).view(2, 3, 3) % 3
    expected = entropy(logits.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten())
    assert float(CrossEntropy()(Seen((logits,), labels=labels))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 4, 3, 5)])
def test_probabilities_as_labels(shape: tuple[int, ...]) -> None:
    dim = 1 if len(shape) == 4 else -1
    logits, labels = draw(*shape), draw(*shape, seed=1).softmax(dim)
    rows = [v.movedim(dim, -1).flatten(0, -2).tolist() for v in (logits, labels)]
    terms = [-sum(t * math.log(p) for t, p in zip(y, softmax(z), strict=True)) for z, y in zip(*rows, strict=True)]
    assert float(CrossEntropy()(Seen((logits,), labels=labels))) == pytest.approx(mean(terms), rel=1e-12)
    assert CrossEntropy().count(labels, None, shape[0]) == len(terms)


def test_shifted_labels_are_those_that_follow() -> None:
    logits, labels = draw(2, 4, 5), torch.tensor([[4, 1, 2, -100], [4, -100, 0, 3]])
    rows, following = logits[:, :3].flatten(0, 1), torch.tensor([1, 2, -100, -100, 0, 3])
    loss = CrossEntropy(shift=True)
    assert float(loss(Seen((logits,), labels=labels))) == pytest.approx(entropy(rows, following), rel=1e-12)
    assert loss.count(labels, torch.ones(2, 4, dtype=torch.bool), 2) == 4
    assert CrossEntropy().count(labels, None, 2) == 6


def test_mean_squared_error() -> None:
    found, labels = draw(2, 3), torch.tensor([[1, 2, 3], [4, 5, 6]])
    terms = [(a - b) ** 2 for a, b in zip(found.flatten().tolist(), labels.flatten().tolist(), strict=True)]
    assert float(MeanSquaredError()(Seen((found,), labels=labels))) == pytest.approx(mean(terms), rel=1e-12)
    assert MeanSquaredError().count(labels, None, 2) == 6


@pytest.mark.parametrize(
    ("loss", "labels", "words"),
    [
        (CrossEntropy(), torch.zeros(2, dtype=torch.long), r"labels of shape \[2\].*outputs of shape \[2, 3, 5\]"),
        (CrossEntropy(), torch.zeros(2, 3), r"labels of shape \[2, 3\]"),
        (CrossEntropy(), None, "labels must be a tensor"),
        (CrossEntropy(), {"boxes": 1}, "they are a dict"),
        (CrossEntropy(shift=True), torch.zeros(2, dtype=torch.long), r"labels are torch.int64\[2\]"),
        (CrossEntropy(shift=True), None, "labels are a NoneType"),
        (MeanSquaredError(), torch.zeros(2, 3), r"labels of shape \[2, 3\].*outputs of shape \[2, 3, 5\]"),
        (MeanSquaredError(), None, "labels must be a tensor"),
    ],
)
def test_labels_that_do_not_fit(loss: Any, labels: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        loss(Seen((draw(2, 3, 5),), labels=labels))
