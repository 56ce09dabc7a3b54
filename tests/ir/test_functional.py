"""In-place ops and their functional twins: equal to eager, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.errors import CaptureError
from tests.models import vectors

Step = Callable[[Tensor], Tensor]


class Wrapped(nn.Module):
    def __init__(self, step: Step) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.linear(x))


def chain(x: Tensor) -> Tensor:
    return x.mul_(2).add_(x).relu_().sub_(0.5).clamp_(-1, 1)


def slice_of_a_base_used_later(x: Tensor) -> Tensor:
    x[:, 1:3] = x[:, 3:5] * 2
    return x + 1


def strided_slice(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, ::2] = x[:, ::2]
    return y + x


def row_and_column(x: Tensor) -> Tensor:
    x[0, 1:3] += 5
    x[:, -1] *= 3
    return x


def view_of_a_view(x: Tensor) -> Tensor:
    y = x[:, 1:4]
    y[:, 0].mul_(4)
    return x * 2


def view_kept_alive(x: Tensor) -> Tensor:
    z = x[:, 1:4][:, 0]
    z.mul_(4)
    return z.sum() + x.sum()


def through_view(x: Tensor) -> Tensor:
    y = x.view(-1, 2, 3)
    y[:, 0] = 3.0
    return x


def through_permute(x: Tensor) -> Tensor:
    y = x.permute(1, 0)
    y[0] = 3.0
    return x


def through_unsqueeze(x: Tensor) -> Tensor:
    x.unsqueeze(1)[:, 0, 2] = 1
    return x


def boolean_assignment(x: Tensor) -> Tensor:
    x[x > 0] = 0
    return x


def zero_then_copy(x: Tensor) -> Tensor:
    x.zero_()
    x.copy_(torch.arange(6.0))
    return x


def parts_that_do_not_overlap(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    a.add_(1)
    return torch.cat([a * 2, b])


def off_dropout(x: Tensor) -> Tensor:
    y = nn.functional.dropout(x, 0.5, False)
    y.add_(1)
    return x * y


def bitwise(x: Tensor) -> Tensor:
    y = x > 0
    y |= x < -1
    return y


def half_stays_half(x: Tensor) -> Tensor:
    y = x.half()
    y += x
    return y


def comparison_keeps_the_dtype(x: Tensor) -> Tensor:
    return x.clone().ge_(0.0)


EQUAL = [
    chain,
    slice_of_a_base_used_later,
    strided_slice,
    row_and_column,
    view_of_a_view,
    view_kept_alive,
    through_view,
    through_permute,
    through_unsqueeze,
    boolean_assignment,
    zero_then_copy,
    parts_that_do_not_overlap,
    off_dropout,
    bitwise,
    half_stays_half,
    comparison_keeps_the_dtype,
]


@pytest.mark.parametrize("step", EQUAL, ids=lambda step: step.__name__)
def test_equal_to_eager_with_no_in_place_op_left(step: Step) -> None:
    model = Wrapped(step).eval()
    program = graphc.capture(model, (vectors(7),))
    with torch.no_grad():
        for batch in (7, 3):
            expected, found = model(vectors(batch)), program(vectors(batch))
            assert expected.dtype == found.dtype
            torch.testing.assert_close(found, expected)
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, node


def stale_transpose(x: Tensor) -> Tensor:
    y = x.t()
    x.add_(1)
    return y


def stale_slice(x: Tensor) -> Tensor:
    y = x[:, 2:]
    x[:, 3] = 7.0
    return y


def through_reshape(x: Tensor) -> Tensor:
    y = x.reshape(-1, 2, 3)
    y.add_(1)
    return x


def one_of_several_parts(x: Tensor) -> Tensor:
    a, _ = x.chunk(2, -1)
    a.add_(1)
    return x


def undeclared_view(x: Tensor) -> Tensor:
    return torch.einsum("ij->ij", x).add_(1) + x


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (stale_transpose, "another view of the same memory"),
        (stale_slice, "another view of the same memory"),
        (through_reshape, "writes through aten.reshape"),
        (one_of_several_parts, "one of several parts"),
        (undeclared_view, "writes through aten.einsum"),
    ],
)
def test_what_has_no_functional_twin_is_refused(step: Step, why: str) -> None:
    with pytest.raises(CaptureError) as caught:
        graphc.capture(Wrapped(step).eval(), (vectors(7),))
    assert why in caught.value.why
    assert "out of place" in caught.value.hint


class Stale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        y = x[:, 2:]
        x[:, 3].add_(7)
        return y


def test_a_refusal_names_the_line_that_writes() -> None:
    with pytest.raises(CaptureError) as caught:
        graphc.capture(Stale(), (vectors(7),))
    line = Stale.forward.__code__.co_firstlineno + 3
    assert "test_functional.py" in caught.value.where
    assert f":{line}: x[:, 3].add_(7)" in caught.value.where


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.calls[1:3].add_(1)
        return x + self.calls


def test_writing_into_a_buffer_is_refused() -> None:
    with pytest.raises(CaptureError, match="keeps between calls"):
        graphc.capture(Counting(), (vectors(7),))


class WritesItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) + 1


def test_a_program_leaves_its_inputs_alone() -> None:
    program = graphc.capture(WritesItsInput(), (vectors(7),))
    x = vectors(7)
    torch.testing.assert_close(program(x), vectors(7) * 2 + 1)
    assert torch.equal(x, vectors(7))
