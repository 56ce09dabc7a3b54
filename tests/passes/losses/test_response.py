from __future__ import annotations

from typing import Any

import pytest
import torch
from graphc.passes.losses import Decoupled, KullbackLeibler, LogitsMse, Seen
from torch import Tensor

from graphc.errors import RecipeError
from tests.passes.losses.reference import draw, kl, mean, softmax


def pairs(*shape: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    return draw(*shape, seed=1, scale=scale), draw(*shape, seed=2, scale=scale)


def distilled(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Of rows [n, classes]."""
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    return temperature**2 * mean([kl(softmax(t, temperature), softmax(s, temperature)) for s, t in rows])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl(temperature: float) -> None:
    loss = KullbackLeibler(temperature=temperature)
    student, teacher = pairs(3, 5, scale=2)
    assert float(loss(Seen((student,), (teacher,)))) == pytest.approx(
        distilled(student, teacher, temperature), rel=1e-10
    )
    student, teacher = pairs(2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected = distilled(student[[0, 0, 1], [0, 1, 0]], teacher[[0, 0, 1], [0, 1, 0]], temperature)
    assert float(loss(Seen((student,), (teacher,), mask=mask))) == pytest.approx(expected, rel=1e-10)
    student, teacher = pairs(2, 5, 3, 4)
    expected = distilled(*(v.permute(0, 2, 3, 1).reshape(-1, 5) for v in (student, teacher)), temperature)
    assert float(loss(Seen((student,), (teacher,)))) == pytest.approx(expected, rel=1e-10)


def test_a_mask_of_other_tokens_is_left_aside() -> None:
    student, teacher = pairs(2, 5)
    mask = torch.tensor([[True, False, False, False, False], [True, True, True, False, False]])
    assert float(KullbackLeibler()(Seen((student,), (teacher,), mask=mask))) == pytest.approx(
        distilled(student, teacher, 4.0), rel=1e-10
    )


def test_classes_that_are_ruled_out() -> None:
    student, teacher = pairs(3, 4)
    out = torch.tensor([False, False, False, True])
    closed = [v.masked_fill(out, -torch.inf).requires_grad_() for v in (student, teacher)]
    found = KullbackLeibler()(Seen((closed[0],), (closed[1],)))
    found.backward()
    assert float(found.detach()) == pytest.approx(distilled(student[:, :3], teacher[:, :3], 4.0), rel=1e-10)
    assert closed[0].grad is not None
    assert bool(closed[0].grad.isfinite().all())


def test_temperature_keeps_the_size_of_gradients() -> None:
    sizes = []
    for temperature in (10.0, 100.0):
        student, teacher = pairs(8, 5)
        student.requires_grad_()
        KullbackLeibler(temperature=temperature)(Seen((student,), (teacher,))).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_logits_mse() -> None:
    student, teacher = pairs(3, 5)
    terms = [(a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    assert float(LogitsMse()(Seen((student,), (teacher,)))) == pytest.approx(mean(terms), rel=1e-12)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 2.0, 1.0)])
def test_decoupled(alpha: float, beta: float, temperature: float) -> None:
    student, teacher = pairs(4, 5, scale=2)
    labels = [1, 4, -100, 0]
    terms = []
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels, strict=True):
        if label == -100:
            continue
        q, p = softmax(s, temperature), softmax(t, temperature)
        others = [i for i in range(5) if i != label]
        target = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        rest = kl([p[i] / (1 - p[label]) for i in others], [q[i] / (1 - q[label]) for i in others])
        terms.append(temperature**2 * (alpha * target + beta * rest))
    loss = Decoupled(alpha=alpha, beta=beta, temperature=temperature)
    found = loss(Seen((student,), (teacher,), labels=torch.tensor(labels)))
    assert float(found) == pytest.approx(mean(terms), rel=1e-10)


def test_decoupled_weighted_by_the_teacher_is_kl() -> None:
    """KL = TCKD + (1 - p_label) NCKD (Zhao et al. 2022, eq. 7)."""
    student, teacher = pairs(1, 5)
    labels = torch.tensor([2])
    doubt = 1 - softmax(teacher[0].tolist(), 4.0)[2]
    found = Decoupled(alpha=1, beta=doubt)(Seen((student,), (teacher,), labels=labels))
    assert float(found) == pytest.approx(float(KullbackLeibler()(Seen((student,), (teacher,)))), rel=1e-10)


def test_decoupled_of_a_sure_teacher_is_finite() -> None:
    student, teacher = torch.tensor([[200.0, 0.0, -1.0]], requires_grad=True), torch.tensor([[300.0, 1.0, 0.0]])
    found = Decoupled(temperature=1)(Seen((student,), (teacher,), labels=torch.tensor([0])))
    found.backward()
    assert student.grad is not None
    assert bool(found.isfinite())
    assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize("labels", [None, torch.zeros(2, 5), torch.zeros(3, dtype=torch.long), [0, 1]])
def test_decoupled_needs_classes(labels: Any) -> None:
    student, teacher = pairs(2, 5)
    with pytest.raises(RecipeError, match=r"integer labels \[batch\], and these are"):
        Decoupled()(Seen((student,), (teacher,), labels=labels))
    with pytest.raises(RecipeError, match=r"logits \[batch, classes\]"):
        Decoupled()(Seen((student[:, None],), (teacher[:, None],), labels=torch.tensor([0, 1])))
