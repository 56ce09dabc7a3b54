from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graphc.passes.losses import AttentionRelation, AttentionTransfer, Seen
from torch import Tensor

from graphc.errors import RecipeError
from tests.passes.losses.reference import dot, draw, kl, mean, norm, softmax

TRANSFER = AttentionTransfer(pairs="auto")
Side = tuple[Tensor, Tensor, Tensor]


def side(heads: int, size: int, seed: int, tokens: int = 3, groups: int | None = None) -> Side:
    q, k, v = (draw(2, n, tokens, size, seed=seed + i) for i, n in enumerate((heads, groups or heads, groups or heads)))
    return q, k, v


def test_transfer_of_maps() -> None:
    student, teacher = draw(2, 3, 2, 2), draw(2, 5, 4, 2, seed=1)
    terms = []
    for b in range(2):
        own, other = [], []
        for i in range(2):
            for j in range(2):
                own.append(mean([float(student[b, c, i, j]) ** 2 for c in range(3)]))
                other.append(mean([mean(teacher[b, c, 2 * i : 2 * i + 2, j].tolist()) ** 2 for c in range(5)]))
        terms += [(a / norm(own) - b / norm(other)) ** 2 for a, b in zip(own, other, strict=True)]
    assert float(TRANSFER(Seen((student,), (teacher,)))) == pytest.approx(mean(terms), rel=1e-10)


def test_transfer_of_tokens() -> None:
    student, teacher = draw(2, 4, 3), draw(2, 4, 5, seed=1)
    lengths = [4, 2]
    terms = []
    for b, n in enumerate(lengths):
        own, other = ([mean([x * x for x in v[b, i].tolist()]) for i in range(n)] for v in (student, teacher))
        terms += [(x / norm(own) - y / norm(other)) ** 2 for x, y in zip(own, other, strict=True)]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    assert float(TRANSFER(Seen((student,), (teacher,), mask=mask))) == pytest.approx(mean(terms), rel=1e-10)


def test_transfer_does_not_depend_on_scale() -> None:
    student, teacher = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    whole = float(TRANSFER(Seen((student,), (teacher,))))
    assert float(TRANSFER(Seen((5 * student,), (0.1 * teacher,)))) == pytest.approx(whole, rel=1e-10)


def test_a_map_of_zeros_has_a_finite_gradient() -> None:
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    TRANSFER(Seen((student,), (torch.ones(2, 3, 2, 2),))).backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def relation(a: list[list[list[float]]], b: list[list[list[float]]], i: int, keys: int) -> list[list[float]]:
    """For each head the distribution of query i over the first keys."""
    return [softmax([dot(x[i], y[j]) / math.sqrt(len(x[i])) for j in range(keys)]) for x, y in zip(a, b, strict=True)]


def compared(student: Side, teacher: Side, names: tuple[str, ...], lengths: tuple[int, ...]) -> float:
    """Sides with as many heads."""
    total = 0.0
    for first, second in names:
        terms = []
        for b, n in enumerate(lengths):
            for i in range(n):
                p, q = (
                    relation(s["qkv".index(first)][b].tolist(), s["qkv".index(second)][b].tolist(), i, n)
                    for s in (teacher, student)
                )
                terms += [kl(x, y) for x, y in zip(p, q, strict=True)]
        total += mean(terms)
    return total


@pytest.mark.parametrize("lengths", [(3, 3), (3, 1)])
@pytest.mark.parametrize("names", [("qk", "vv"), ("qq",), ("kk", "qk")])
def test_relations(names: tuple[Any, ...], lengths: tuple[int, int]) -> None:
    student, teacher = side(2, 4, 1), side(2, 6, 5)
    mask = None if lengths == (3, 3) else torch.arange(3) < torch.tensor(lengths)[:, None]
    found = AttentionRelation(pairs="auto", relations=names)(Seen(student, teacher, mask=mask))
    assert float(found) == pytest.approx(compared(student, teacher, names, lengths), rel=1e-10)


def test_the_first_paper_compares_queries_with_keys_and_values_with_values() -> None:
    student, teacher = side(2, 4, 1), side(2, 6, 5)
    expected = compared(student, teacher, ("qk", "vv"), (3, 3))
    assert float(AttentionRelation(pairs="auto")(Seen(student, teacher))) == pytest.approx(expected, rel=1e-10)


def test_relation_heads_split_all_channels_anew() -> None:
    student, teacher = side(2, 6, 1), side(3, 8, 5)

    def anew(values: Side) -> Side:
        """Channel c of the joined heads becomes channel c % size of head c // size, of four."""
        found = []
        for value in values:
            width = value.shape[1] * value.shape[3]
            new = value.new_zeros(2, 4, 3, width // 4)
            for c in range(width):
                new[:, c // (width // 4), :, c % (width // 4)] = value[:, c // value.shape[3], :, c % value.shape[3]]
            found.append(new)
        return found[0], found[1], found[2]

    names: tuple[Any, ...] = ("qq", "kk", "vv")
    loss = AttentionRelation(pairs="last", relations=names, relation_heads=4)
    expected = compared(anew(student), anew(teacher), names, (3, 3))
    assert float(loss(Seen(student, teacher))) == pytest.approx(expected, rel=1e-10)


def test_grouped_queries() -> None:
    student, teacher = side(4, 2, 1, groups=2), side(4, 3, 5, groups=1)

    def repeated(values: Side) -> Side:
        q, k, v = values
        at = [i * k.shape[1] // 4 for i in range(4)]
        return q, k[:, at], v[:, at]

    expected = compared(repeated(student), repeated(teacher), ("qk", "vv"), (3, 3))
    assert float(AttentionRelation(pairs="auto")(Seen(student, teacher))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("student", "teacher", "heads", "words"),
    [
        (side(2, 4, 1), side(4, 4, 5), None, r"\[2, 2, 3, 4\].*\[2, 4, 3, 4\].*relation qk(.|\n)*set relation_heads"),
        (side(2, 4, 1), side(2, 4, 5, tokens=4), None, r"\[2, 2, 3, 4\].*\[2, 2, 4, 4\]"),
        (side(2, 4, 1), side(2, 6, 5), 8, r"cannot split them into 8 heads(.|\n)*12 channels in all"),
        (side(4, 2, 1, groups=3), side(4, 2, 5), None, r"k is \[2, 3, 3, 2\] beside queries \[2, 4, 3, 2\]"),
        ((draw(2, 3),), (draw(2, 3),), None, "no attention to look at"),
    ],
)
def test_attention_that_does_not_pair(student: Any, teacher: Any, heads: int | None, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        AttentionRelation(pairs="auto", relation_heads=heads)(Seen(student, teacher))
