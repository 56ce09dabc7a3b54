from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from graphc.passes.losses import Seen, TokenKl
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from graphc.errors import RecipeError
from tests.passes.losses.reference import draw, kl, mean, softmax

LABELS = torch.tensor([[5, 1, -100, 2], [5, -100, -100, 3]])
NEXT = [(0, 0), (0, 2), (1, 2)]
"""Positions whose next label counts."""


def divergence(kind: str, p: list[float], q: list[float], beta: float) -> float:
    if kind == "forward":
        return kl(p, q)
    if kind == "reverse":
        return kl(q, p)
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def expected(at: list[tuple[int, int]], kind: str = "forward", temperature: float = 1.0, beta: float = 0.5) -> float:
    student, teacher = draw(2, 4, 6, seed=1), draw(2, 4, 6, seed=2)
    pairs = [[softmax(z[i, j].tolist(), temperature) for z in (teacher, student)] for i, j in at]
    return temperature**2 * mean([divergence(kind, p, q, beta) for p, q in pairs])


def seen(**also: Any) -> Seen:
    return Seen((draw(2, 4, 6, seed=1),), (draw(2, 4, 6, seed=2),), **also)


@pytest.mark.parametrize("chunk", [1, 3, 512])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_divergences(kind: Literal["forward", "reverse", "js"], temperature: float, chunk: int) -> None:
    loss = TokenKl(divergence=kind, temperature=temperature, beta=0.2, chunk=chunk)
    assert float(loss(seen(labels=LABELS))) == pytest.approx(expected(NEXT, kind, temperature, 0.2), rel=1e-10)
    assert loss.count(LABELS, None, 2) == len(NEXT)


def test_what_counts() -> None:
    unshifted = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 3)]
    assert float(TokenKl(shift=False)(seen(labels=LABELS))) == pytest.approx(expected(unshifted), rel=1e-10)
    assert TokenKl(shift=False).count(LABELS, None, 2) == 5
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert float(TokenKl()(seen(mask=mask))) == pytest.approx(expected([(0, 0), (0, 1), (1, 0)]), rel=1e-10)
    assert float(TokenKl()(seen(mask=mask, labels=LABELS))) == pytest.approx(expected(NEXT), rel=1e-10)
    assert (TokenKl().count(None, mask, 2), TokenKl().count(None, None, 2)) == (3, 2)
    everywhere = [(i, j) for i in range(2) for j in range(4)]
    assert float(TokenKl()(seen())) == pytest.approx(expected(everywhere), rel=1e-10)


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_chunks_have_the_gradient_of_the_whole(kind: Literal["forward", "reverse", "js"]) -> None:
    gradients = []
    for chunk in (2, 512):
        given = seen(labels=LABELS)
        student = given.student[0].requires_grad_()
        TokenKl(divergence=kind, chunk=chunk)(given).backward()
        assert student.grad is not None
        gradients.append(student.grad)
    assert torch.allclose(*gradients, atol=1e-14)
    assert bool(gradients[0].any())
    assert not gradients[0][0, 1].any()
    assert not gradients[0][:, 3].any()


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_tokens_that_do_not_count_and_words_that_are_ruled_out(kind: Literal["forward", "reverse", "js"]) -> None:
    given = seen(labels=LABELS)
    whole = float(TokenKl(divergence=kind)(given))

    def spoilt(value: Tensor) -> Tensor:
        value = torch.cat([value, torch.full((2, 4, 2), -torch.inf, dtype=value.dtype)], 2)
        value[0, 1] = torch.nan
        return value

    student = spoilt(given.student[0]).requires_grad_()
    found = TokenKl(divergence=kind)(Seen((student,), (spoilt(given.teacher[0]),), labels=LABELS))
    found.backward()
    assert float(found.detach()) == pytest.approx(whole, rel=1e-10)
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_log_probabilities_are_not_kept_for_the_backward_pass() -> None:
    saved: list[int] = []
    student = draw(4, 64, 50).bfloat16().requires_grad_()

    def pack(value: Tensor) -> Tensor:
        if value.dtype == torch.float32:
            saved.append(value.numel())
        return value

    with saved_tensors_hooks(pack, lambda value: value):
        TokenKl(chunk=16)(Seen((student,), (draw(4, 64, 50, seed=2).bfloat16(),)))
    assert max(saved, default=0) < 50


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.long), r"these are \[2, 3\]"),
        (torch.zeros(2, dtype=torch.long), r"torch.int64\[2\]"),
        (["a", "b"], "labels are a list"),
    ],
)
def test_labels_that_do_not_fit(labels: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        TokenKl()(seen(labels=labels))


def test_logits_without_tokens() -> None:
    with pytest.raises(RecipeError, match=r"it takes \[batch, tokens, vocabulary\]"):
        TokenKl()(Seen((draw(2, 4),), (draw(2, 4),)))
