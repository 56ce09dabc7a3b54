from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphc.passes.losses import (
    LOSSES,
    AttentionRelation,
    AttentionTransfer,
    Cosine,
    CrossEntropy,
    Decoupled,
    Hint,
    KullbackLeibler,
    LogitsMse,
    Loss,
    MeanSquaredError,
    RkdAngle,
    RkdDistance,
    Seen,
    Similarity,
    TokenKl,
    find_loss_type,
    make_loss,
)
from torch import Tensor

from graphc.errors import RecipeError
from tests.passes.losses.reference import draw

CLASSES = torch.tensor([0, 3, -100, -100, 1])
TOKENS = torch.tensor([[0, 3, -100, 2], [1, -100, -100, -100], [2, 2, 2, 2], [-100, 0, 1, -100], [3, 3, -100, -100]])
MASK = TOKENS.roll(1, 1) != -100
NOTHING: tuple[Tensor, ...] = ()


def both(*shape: int, **also: Any) -> Seen:
    return Seen((draw(*shape, seed=1),), (draw(*shape, seed=2),), **also)


def heads(count: int, size: int, seed: int, groups: int | None = None) -> tuple[Tensor, ...]:
    return tuple(draw(5, n, 4, size, seed=seed + i) for i, n in enumerate((count, groups or count, groups or count)))


SOFT = draw(5, 4, seed=3).softmax(1)
CASES: dict[str, tuple[Loss, Seen]] = {
    "cross-entropy": (CrossEntropy(), Seen((draw(5, 4),), labels=CLASSES)),
    "cross-entropy of tokens": (CrossEntropy(label_smoothing=0.1), Seen((draw(5, 4, 6),), labels=TOKENS)),
    "cross-entropy shifted": (CrossEntropy(shift=True), Seen((draw(5, 4, 6),), labels=TOKENS)),
    "cross-entropy of maps": (CrossEntropy(), Seen((draw(5, 6, 4, 3),), labels=TOKENS[..., None].expand(5, 4, 3))),
    "cross-entropy of probabilities": (CrossEntropy(), Seen((draw(5, 4),), labels=SOFT)),
    "mse": (MeanSquaredError(), Seen((draw(5, 4),), labels=draw(5, 4, seed=2))),
    "kl": (KullbackLeibler(), both(5, 4)),
    "kl of tokens": (KullbackLeibler(temperature=2), both(5, 4, 6, mask=MASK)),
    "kl of maps": (KullbackLeibler(), both(5, 4, 3, 2)),
    "logits-mse": (LogitsMse(), both(5, 4, 6, mask=MASK)),
    "logits-mse of numbers": (LogitsMse(), both(5)),
    "dkd": (Decoupled(), both(5, 4, labels=CLASSES)),
    "token-kl": (TokenKl(chunk=3), both(5, 4, 6, labels=TOKENS)),
    "token-kl reverse": (TokenKl(divergence="reverse", shift=False, chunk=7), both(5, 4, 6, labels=TOKENS)),
    "token-kl js": (TokenKl(divergence="js", beta=0.3, temperature=2), both(5, 4, 6, mask=MASK)),
    "hint": (Hint(pairs="auto"), both(5, 4, 6, mask=MASK)),
    "hint of maps": (Hint(pairs="auto"), Seen((draw(5, 4, 3, 3),), (draw(5, 4, 6, 2, seed=2),))),
    "cosine": (Cosine(pairs="auto"), both(5, 4, 6, mask=MASK)),
    "cosine of maps": (Cosine(pairs="auto"), both(5, 4, 3, 2)),
    "rkd-distance": (RkdDistance(student="a"), Seen((draw(5, 4),), (draw(5, 6, seed=2),))),
    "rkd-angle": (RkdAngle(student="a"), Seen((draw(5, 4),), (draw(5, 6, seed=2),))),
    "similarity": (Similarity(student="a"), Seen((draw(5, 4, 6),), (draw(5, 4, 2, seed=2),), mask=MASK)),
    "attention-transfer": (AttentionTransfer(pairs="auto"), Seen((draw(5, 4, 3, 3),), (draw(5, 2, 6, 2, seed=2),))),
    "attention-transfer of tokens": (
        AttentionTransfer(pairs="auto"),
        Seen((draw(5, 4, 6),), (draw(5, 4, 2, seed=2),), mask=MASK),
    ),
    "attention-relation": (AttentionRelation(pairs="auto"), Seen(heads(2, 3, 1), heads(2, 5, 7), mask=MASK)),
    "attention-relation v2": (
        AttentionRelation(pairs="last", relations=("qq", "kk", "vv", "qk"), relation_heads=3),
        Seen(heads(2, 3, 1, groups=1), heads(3, 4, 7), mask=MASK),
    ),
}
OF_THE_WHOLE = {"rkd-distance", "rkd-angle", "similarity"}
PAIRS = [name for name, (loss, _) in CASES.items() if loss.needs_teacher]


def part(seen: Seen, change: Callable[[Tensor], Tensor]) -> Seen:
    own, other = (tuple(map(change, side)) for side in (seen.student, seen.teacher))
    return Seen(own, other, *(None if v is None else change(v) for v in (seen.labels, seen.mask)))


def of_student(seen: Seen, *student: Tensor) -> Seen:
    return dataclasses.replace(seen, student=student)


def test_every_loss_is_tried() -> None:
    built_in = {name for name, kind in LOSSES.items() if kind.__module__.startswith("graphc.passes.losses.")}
    assert {loss.type for loss, _ in CASES.values()} == built_in


@pytest.mark.parametrize("name", [name for name, (loss, _) in CASES.items() if loss.type not in OF_THE_WHOLE])
def test_parts_weighted_by_their_count_give_the_mean_of_the_whole(name: str) -> None:
    loss, seen = CASES[name]
    whole = float(loss(seen))
    parts = [part(seen, lambda v, r=rows: v[r]) for rows in (slice(0, 2), slice(2, 5))]  # type: ignore[misc]
    counts = [loss.count(p.labels, p.mask, n) for p, n in zip(parts, (2, 3), strict=True)]
    assert loss.count(seen.labels, seen.mask, 5) == sum(counts)
    found = sum(c * float(loss(p)) for c, p in zip(counts, parts, strict=True)) / sum(counts)
    assert found == pytest.approx(whole, rel=1e-12)
    uneven = name == "cross-entropy" or "token" in name or "shift" in name
    assert not uneven or found != pytest.approx(sum(map(float, map(loss, parts))) / 2, rel=1e-4)


@pytest.mark.parametrize("name", list(CASES))
def test_gradients(name: str) -> None:
    loss, seen = CASES[name]
    student = [value.clone().requires_grad_() for value in seen.student]
    assert torch.autograd.gradcheck(lambda *values: loss(of_student(seen, *values)), student, fast_mode=True)


@pytest.mark.parametrize("name", PAIRS)
def test_a_student_like_its_teacher_has_no_loss(name: str) -> None:
    loss, seen = CASES[name]
    assert float(loss(seen)) > 1e-3
    assert float(loss(of_student(seen, *seen.teacher))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", list(CASES))
def test_half_precision_is_computed_in_float32(name: str) -> None:
    loss, seen = CASES[name]
    half = part(seen, lambda v: v.bfloat16() if v.is_floating_point() else v)
    found = loss(half)
    assert found.dtype == torch.float32
    exact = loss(part(half, lambda v: v.double() if v.is_floating_point() else v))
    assert float(found) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("name", list(CASES))
def test_autocast_takes_no_precision(name: str) -> None:
    loss, seen = CASES[name]
    single = part(seen, lambda v: v.float() if v.is_floating_point() else v)
    with torch.autocast("cpu", torch.bfloat16):
        found = float(loss(single))
    assert found == float(loss(single))


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n][1].mask is not None and CASES[n][0].type != "token-kl"])
def test_padding_does_not_matter(name: str) -> None:
    loss, seen = CASES[name]
    assert seen.mask is not None
    hole = ~seen.mask

    def holes(value: Tensor) -> Tensor:
        return (hole[..., None] if value.dim() == 3 else hole[:, None, :, None]).expand_as(value)

    own, other = (tuple(v.masked_fill(holes(v), 10) for v in side) for side in (seen.student, seen.teacher))
    student = [value.requires_grad_() for value in own]
    value = loss(Seen(tuple(student), other, mask=seen.mask))
    assert float(value.detach()) == pytest.approx(float(loss(seen)), rel=1e-12)
    value.backward()
    assert all(v.grad is not None and v.grad.any() and not v.grad[holes(v)].any() for v in student)
    assert float(loss(dataclasses.replace(seen, mask=None))) != pytest.approx(float(loss(seen)), rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "seen"),
    [
        (CrossEntropy(), Seen((draw(2, 3, 4),), labels=torch.full((2, 3), -100))),
        (KullbackLeibler(), both(2, 3, 4, mask=torch.zeros(2, 3, dtype=torch.bool))),
        (Decoupled(), both(2, 4, labels=torch.full((2,), -100))),
        (TokenKl(), both(2, 3, 4, labels=torch.full((2, 3), -100))),
    ],
    ids=lambda v: v.type if isinstance(v, Loss) else "",
)
def test_where_nothing_counts_the_loss_is_zero(loss: Loss, seen: Seen) -> None:
    (student,) = (value.requires_grad_() for value in seen.student)
    value = loss(seen)
    value.backward()
    assert float(value.detach()) == 0 == loss.count(seen.labels, seen.mask, 2)
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("name", PAIRS)
def test_what_cannot_be_compared_is_refused(name: str) -> None:
    loss, seen = CASES[name]
    with pytest.raises(RecipeError, match=r"needs a teacher|no attention to look at"):
        loss(dataclasses.replace(seen, teacher=()))
    with pytest.raises(RecipeError, match="cannot pair") as caught:
        loss(dataclasses.replace(seen, teacher=tuple(value[:4] for value in seen.teacher)))
    assert loss.type in caught.value.what
    if loss.reads != "attention":
        assert all(
            str(list(shape)) in caught.value.why for shape in (seen.student[0].shape, [4, *seen.teacher[0].shape[1:]])
        )


@pytest.mark.parametrize(
    ("loss", "student", "teacher"),
    [
        (KullbackLeibler(), (2, 4), (2, 5)),
        (KullbackLeibler(), (2, 1), (2, 1)),
        (LogitsMse(), (2, 3, 4), (2, 4, 4)),
        (Hint(student="a"), (2, 3, 4, 4), (2, 5, 4, 4)),
        (Cosine(student="a"), (2, 3, 4), (2, 3, 4, 4)),
        (AttentionTransfer(student="a"), (2, 3), (2, 3)),
        (AttentionTransfer(student="a"), (2, 3, 8), (2, 4, 8)),
        (TokenKl(), (2, 3, 4), (2, 3, 5)),
        (RkdDistance(student="a"), (1, 4), (1, 4)),
        (RkdAngle(student="a"), (2, 4), (2, 4)),
        (Similarity(student="a"), (1, 4), (1, 4)),
    ],
)
def test_an_error_says_both_shapes(loss: Loss, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match="cannot pair") as caught:
        loss(Seen((draw(*student),), (draw(*teacher),)))
    assert f"student's {list(student)}, the teacher's {list(teacher)}" in caught.value.why


def test_from_yaml() -> None:
    loss = make_loss(
        {"type": "token-kl", "divergence": "js", "beta": 0.1, "weight": 0.5, "output": "logits"}, "losses[0]"
    )
    assert loss == TokenKl(divergence="js", beta=0.1, weight=0.5, output="logits")
    relation = make_loss({"type": "attention-relation", "relations": ["qq", "kk"], "pairs": "last"}, "losses[0]")
    assert relation == AttentionRelation(relations=("qq", "kk"), pairs="last")


@pytest.mark.parametrize(
    ("spec", "words", "hint"),
    [
        ({"type": "token-lk"}, "no loss is called 'token-lk'", "token-kl"),
        ({"type": "kl", "temprature": 2}, "kl has no option 'temprature'", "temperature"),
        ({"type": "kl", "temperature": 0}, "'temperature' of kl cannot be 0", ""),
        ({"type": "token-kl", "divergence": "backward"}, "'divergence' of token-kl cannot be 'backward'", ""),
        ({"type": "token-kl", "beta": 1}, "'beta' of token-kl cannot be 1", ""),
        ({"type": "attention-relation", "pairs": "auto", "relations": []}, "'relations' of attention-relation", ""),
        ({"type": "attention-relation", "pairs": "auto", "relations": ["kq"]}, "'relations' of attention-relation", ""),
        ({"type": "cross-entropy", "label_smoothing": 2}, "'label_smoothing' of cross-entropy cannot be 2", ""),
        ({"type": "graphc.passes.losses:Seen"}, "is no loss", "subclass"),
    ],
)
def test_a_wrong_spec(spec: dict[str, Any], words: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        make_loss(spec, "losses[2]")
    assert caught.value.where == "losses[2]"
    assert hint in caught.value.hint


def test_a_loss_by_target() -> None:
    assert find_loss_type("graphc.passes.losses:Hint") is Hint
