from __future__ import annotations

from itertools import permutations

import pytest
import torch
from graphc.passes.losses import Loss, RkdAngle, RkdDistance, Seen, Similarity
from torch import Tensor

from tests.passes.losses.reference import dot, draw, mean, norm

Rows = list[list[float]]


def smooth(a: float, b: float) -> float:
    gap = abs(a - b)
    return gap * gap / 2 if gap < 1 else gap - 0.5


def minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def distance(student: Rows, teacher: Rows) -> float:
    pairs = list(permutations(range(len(student)), 2))
    own, other = ({(i, j): norm(minus(f[i], f[j])) for i, j in pairs} for f in (student, teacher))
    mu, nu = (mean([d for d in found.values() if d > 0]) for found in (own, other))
    return mean([smooth(own[p] / mu, other[p] / nu) for p in pairs])


def angle(student: Rows, teacher: Rows) -> float:
    def cosine(f: Rows, i: int, j: int, k: int) -> float:
        a, b = minus(f[i], f[j]), minus(f[k], f[j])
        return dot(a, b) / norm(a) / norm(b)

    triplets = permutations(range(len(student)), 3)
    return mean([smooth(cosine(student, *t), cosine(teacher, *t)) for t in triplets])


def similarity(student: Rows, teacher: Rows) -> float:
    def gram(f: Rows) -> Rows:
        rows = [[dot(a, b) for b in f] for a in f]
        return [[x / norm(row) for x in row] for row in rows]

    pairs = zip(gram(student), gram(teacher), strict=True)
    return sum((a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)) / len(student) ** 2


FORMULAS = [(RkdDistance(student="a"), distance), (RkdAngle(student="a"), angle), (Similarity(student="a"), similarity)]
each = pytest.mark.parametrize(("loss", "formula"), FORMULAS, ids=[loss.type for loss, _ in FORMULAS])


@each
@pytest.mark.parametrize("shapes", [((5, 3), (5, 6)), ((4, 2, 3, 3), (4, 8)), ((5,), (5, 2))])
def test_formulas(loss: Loss, formula: object, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    assert callable(formula)
    student, teacher = draw(*shapes[0], scale=3), draw(*shapes[1], seed=1)
    expected = formula(student.reshape(len(student), -1).tolist(), teacher.reshape(len(teacher), -1).tolist())
    assert float(loss(Seen((student,), (teacher,)))) == pytest.approx(expected, rel=1e-8)


@each
def test_tokens_are_taken_by_their_mean(loss: Loss, formula: object) -> None:
    assert callable(formula)
    student, teacher = draw(4, 3, 5), draw(4, 3, 2, seed=1)
    lengths = [3, 1, 2, 3]
    mask = torch.arange(3) < torch.tensor(lengths)[:, None]
    rows = [
        [[mean(v[b, :n, c].tolist()) for c in range(v.shape[2])] for b, n in enumerate(lengths)]
        for v in (student, teacher)
    ]
    assert float(loss(Seen((student,), (teacher,), mask=mask))) == pytest.approx(formula(*rows), rel=1e-8)


def rotated(value: Tensor) -> Tensor:
    basis, _ = torch.linalg.qr(draw(value.shape[1], value.shape[1], seed=9))
    return value @ basis


@pytest.mark.parametrize(
    ("loss", "moved"),
    [
        (FORMULAS[0][0], lambda f: 3 * rotated(f) + 5),
        (FORMULAS[1][0], lambda f: 3 * rotated(f) + 5),
        (FORMULAS[2][0], lambda f: 3 * rotated(f)),
    ],
)
def test_what_relations_do_not_see(loss: Loss, moved: object) -> None:
    assert callable(moved)
    teacher = draw(6, 4)
    assert float(loss(Seen((moved(teacher),), (teacher,)))) == pytest.approx(0, abs=1e-12)
    assert float(loss(Seen((teacher.square(),), (teacher,)))) > 1e-3


@each
@pytest.mark.parametrize("student", [torch.ones(4, 3), torch.zeros(4, 3), torch.tensor([[1.0], [1.0], [2.0], [0.0]])])
def test_equal_samples_have_a_finite_gradient(loss: Loss, formula: object, student: Tensor) -> None:
    student = student.double().requires_grad_()
    found = loss(Seen((student,), (draw(4, 3, seed=1),)))
    found.backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 10
    assert bool(found.isfinite())


def test_a_large_offset_does_not_drown_the_distances() -> None:
    student, teacher = draw(6, 4), draw(6, 4, seed=1)
    for loss in (FORMULAS[0][0], FORMULAS[1][0]):
        exact = float(loss(Seen((student,), (teacher,))))
        far = loss(Seen(((student + 100).float(),), (teacher.float(),)))
        assert float(far) == pytest.approx(exact, rel=1e-3)
