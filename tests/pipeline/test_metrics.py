"""Metrics equal those of scikit-learn or a formula by hand, and refuse what they cannot take."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.pipeline.evaluation import Evaluator
from graphc.pipeline.metrics import find_metric
from tests import models

sklearn = pytest.importorskip("sklearn.metrics", reason="pip install scikit-learn")


class Same(nn.Module):
    """Gives its input."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one


def same(*shape: int) -> graphc.Program:
    return graphc.capture(Same(), (torch.randn(shape),))


def scores() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (50,), generator=generator)
    found = torch.randn(50, 7, generator=generator)
    found[torch.arange(25), labels[:25]] += 3
    return found, labels


def batched(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.split(20) for t in tensors), strict=True))


def test_classes() -> None:
    found, labels = scores()
    program, data = same(4, 7), batched(found, labels)
    guess = found.argmax(1).numpy()
    assert find_metric("accuracy")(program, data) == pytest.approx(sklearn.accuracy_score(labels, guess))
    assert find_metric("f1")(program, data) == pytest.approx(sklearn.f1_score(labels, guess, average="macro"))
    top = sklearn.top_k_accuracy_score(labels, found.numpy(), k=3, labels=range(7))
    assert find_metric("top-3")(program, data) == pytest.approx(top)
    soft = nn.functional.one_hot(labels, 7).float()
    assert find_metric("accuracy")(program, batched(found, soft)) == find_metric("accuracy")(program, data)


def test_labels_that_do_not_count_are_left_out() -> None:
    found, labels = scores()
    kept = torch.arange(50) % 3 > 0
    hidden = labels.masked_fill(~kept, -100)
    for name in ("accuracy", "f1", "top-2"):
        whole = find_metric(name)(same(4, 7), batched(found[kept], labels[kept]))
        assert find_metric(name)(same(4, 7), batched(found, hidden)) == pytest.approx(whole)


def test_perplexity_is_of_the_next_token() -> None:
    logits = torch.randn(3, 5, 7)
    labels = torch.randint(0, 7, (3, 5))
    labels[1, 3:] = -100
    losses = [
        -math.log(float(logits[b, t].softmax(0)[labels[b, t + 1]]))
        for b in range(3)
        for t in range(4)
        if labels[b, t + 1] != -100
    ]
    metric = find_metric("perplexity")
    data = [(logits[:2], labels[:2]), (logits[2:], labels[2:])]
    assert metric(same(3, 5, 7), data) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert metric.drop(10, 12) == 2
    assert find_metric("accuracy").drop(0.9, 0.8) == pytest.approx(0.1)


def test_cosine_is_to_the_original() -> None:
    original = models.residual()
    cut = graphc.mask(original, {graphc.find_axes(original)[0].name: [0, 1, 2]})
    batches = [models.image(3), models.image(2)]
    expected = torch.cat([nn.functional.cosine_similarity(cut(x), original(x)) for x in batches]).mean()
    assert find_metric("cosine", original)(cut, batches) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert find_metric("cosine", original)(original, batches) == pytest.approx(1)


def lowest(program: graphc.Program, loader: Any) -> float:
    return float("nan")


lowest.greater_is_better = False  # type: ignore[attr-defined]


def test_a_target_says_which_way_is_better_and_must_be_a_number() -> None:
    metric = find_metric("tests.pipeline.test_metrics:lowest")
    assert not metric.greater_is_better
    with pytest.raises(graphc.GraphError, match="is nan"):
        metric(same(4, 7), [])


def failing(program: graphc.Program, loader: Any) -> float:
    return 1 / 0


def nothing(program: graphc.Program, loader: Any) -> None:
    return None


def test_a_target_that_is_no_metric_is_told() -> None:
    with pytest.raises(graphc.GraphError, match="'math:pi' is not callable"):
        find_metric("math:pi")
    with pytest.raises(graphc.GraphError, match="test_metrics:failing") as error:
        find_metric("tests.pipeline.test_metrics:failing")(same(4, 7), [])
    assert "ZeroDivisionError" in error.value.why
    with pytest.raises(graphc.GraphError, match="gives a NoneType"):
        find_metric("tests.pipeline.test_metrics:nothing")(same(4, 7), [])


@pytest.mark.parametrize("name", ["accuracy", "f1"])
def test_labels_of_no_class_are_refused(name: str) -> None:
    found, labels = scores()
    with pytest.raises(graphc.GraphError, match="a label is 7") as error:
        find_metric(name)(same(4, 7), [(found, labels.where(labels > 0, 7))])
    assert "7 classes" in error.value.why


def test_perplexity_is_of_tokens() -> None:
    with pytest.raises(graphc.GraphError, match="perplexity does not fit the program"):
        find_metric("perplexity")(same(4, 7), [scores()])
    certain = torch.zeros(2, 5, 3)
    certain[..., 0] = 1e6
    with pytest.raises(graphc.GraphError, match="perplexity is inf"):
        find_metric("perplexity")(same(4, 5, 3), [(certain, torch.ones(2, 5, dtype=torch.long))])


@pytest.mark.parametrize("name", ["acuracy", "top-0", "top"])
def test_unknown_metrics_name_the_nearest(name: str) -> None:
    with pytest.raises(graphc.GraphError, match="no metric is called") as error:
        find_metric(name)
    assert "package.module:callable" in error.value.hint


def test_metrics_need_labels_and_data() -> None:
    with pytest.raises(graphc.GraphError, match="accuracy needs labels"):
        find_metric("accuracy")(same(4, 7), [scores()[0]])
    with pytest.raises(graphc.GraphError, match="the data is empty"):
        find_metric("f1")(same(4, 7), [])


def test_what_is_known_of_a_program_is_not_taken_again() -> None:
    program, taken = same(4, 7), []

    def load() -> Any:
        taken.append(1)
        return batched(*scores())

    evaluator = Evaluator(find_metric("accuracy"), load, program)
    assert evaluator.baseline == evaluator(program) == evaluator.fresh(program)
    assert len(taken) == 2
