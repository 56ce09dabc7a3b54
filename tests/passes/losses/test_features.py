from __future__ import annotations

import pytest
import torch
from graphc.passes.losses import Cosine, Hint, Seen
from torch import Tensor

from tests.passes.losses.reference import dot, draw, mean, norm

HINT, COSINE = Hint(pairs="auto"), Cosine(pairs="auto")
MASK = torch.tensor([[True, True, False], [True, False, False]])
KEPT = [(0, 0), (0, 1), (1, 0)]


def vectors(value: Tensor, at: list[tuple[int, ...]]) -> list[list[float]]:
    return [value[i].tolist() for i in at]


def hint(student: list[list[float]], teacher: list[list[float]]) -> float:
    pairs = zip(student, teacher, strict=True)
    return mean([(a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)])


def cosine(student: list[list[float]], teacher: list[list[float]]) -> float:
    return mean([1 - dot(s, t) / norm(s) / norm(t) for s, t in zip(student, teacher, strict=True)])


@pytest.mark.parametrize(("loss", "formula"), [(HINT, hint), (COSINE, cosine)])
@pytest.mark.parametrize(
    ("student", "teacher", "mask", "rows"),
    [
        (draw(3, 4), draw(3, 4, seed=1), None, [(0,), (1,), (2,)]),
        (draw(2, 3, 4), draw(2, 3, 4, seed=1), MASK, KEPT),
        (draw(2, 3, 4), draw(2, 3, 4, seed=1), MASK[:, :2], [(i, j) for i in range(2) for j in range(3)]),
    ],
    ids=["samples", "tokens", "mask of other tokens"],
)
def test_vectors(loss: Hint, formula: object, student: Tensor, teacher: Tensor, mask: Tensor, rows: list) -> None:  # type: ignore[type-arg]
    assert callable(formula)
    expected = formula(vectors(student, rows), vectors(teacher, rows))
    assert float(loss(Seen((student,), (teacher,), mask=mask))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("loss", "formula"), [(HINT, hint), (COSINE, cosine)])
def test_maps_of_other_sizes(loss: Hint, formula: object) -> None:
    assert callable(formula)
    student, teacher = draw(2, 3, 4, 2), draw(2, 3, 2, 6, seed=1)
    own, other = [], []
    for b in range(2):
        for i in range(2):
            for j in range(2):
                own.append([mean(student[b, c, 2 * i : 2 * i + 2, j].tolist()) for c in range(3)])
                other.append([mean(teacher[b, c, i, 3 * j : 3 * j + 3].tolist()) for c in range(3)])
    assert float(loss(Seen((student,), (teacher,)))) == pytest.approx(formula(own, other), rel=1e-12)


def test_a_vector_of_zeros_has_no_direction() -> None:
    student = torch.zeros(2, 3, dtype=torch.float64)
    student[0] = torch.tensor([1.0, 2.0, 3.0])
    student.requires_grad_()
    found = COSINE(Seen((student,), (torch.ones(2, 3, dtype=torch.float64),)))
    found.backward()
    assert float(found.detach()) == pytest.approx((1 - 6 / 42**0.5 + 1) / 2, rel=1e-12)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1


def test_cosine_does_not_depend_on_scale() -> None:
    student, teacher = draw(4, 5), draw(4, 5, seed=1)
    scales = torch.tensor([[0.1], [2.0], [30.0], [1.0]])
    whole = float(COSINE(Seen((student,), (teacher,))))
    assert float(COSINE(Seen((student * scales,), (teacher * 7,)))) == pytest.approx(whole, rel=1e-12)
    assert float(COSINE(Seen((-teacher,), (teacher,)))) == pytest.approx(2, rel=1e-12)
