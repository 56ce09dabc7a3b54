"""Canonical form: stable text, no bookkeeping, explicit sizes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphc
from tests import models
from tests.models import image, seeded, tokens, vectors


@pytest.mark.parametrize(
    ("name", "build", "example"),
    [
        ("residual", models.Residual, image()),
        ("concat", models.Concat, image()),
        ("transformer", models.Transformer, tokens()),
        ("inplace", models.InPlace, vectors()),
    ],
)
def test_canonical_text(golden: Callable[[str, str], None], name: str, build: type[nn.Module], example: Tensor) -> None:
    golden(f"program_{name}", str(graphc.capture(seeded(build), (example,))))


def test_two_captures_print_the_same_text() -> None:
    assert str(models.transformer()) == str(models.transformer())
    first, second = (graphc.capture(models.tiny_bert()[0], kwargs=models.tiny_bert()[1]) for _ in range(2))
    assert str(first) == str(second)


def targets(program: graphc.Program) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


class Bookkeeping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().to(torch.float32).to(x.device)[:, :]
        noise = torch.rand(3)  # noqa: F841 - nothing depends on it
        parts = x.chunk(3, 1)
        return parts[0][:, -2:-1] * parts[2]


def test_bookkeeping_goes_and_sizes_are_said() -> None:
    program = graphc.capture(Bookkeeping(), (vectors(7),))
    assert targets(program) == {
        "aten.split_with_sizes.default",
        "aten.slice.Tensor",
        "aten.mul.Tensor",
        "<built-in function getitem>",
    }
    split, piece = (
        program.graph.find_nodes(op="call_function", target=t)[0]
        for t in (torch.ops.aten.split_with_sizes.default, torch.ops.aten.slice.Tensor)
    )
    assert split.args[1:] == ([2, 2, 2], 1)
    assert piece.args[1:] == (1, 0, 1)


def test_a_cast_that_changes_the_dtype_stays() -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.float64) + 1

    assert "aten.to.dtype" in targets(graphc.capture(Cast(), (vectors(7),)))


def test_the_scale_of_attention_is_a_number() -> None:
    program = models.transformer()
    nodes = program.graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default)
    assert [node.kwargs["scale"] for node in nodes] == [1 / math.sqrt(5)] * 2


def test_one_node_for_each_tensor() -> None:
    program = models.transformer()
    names = [node.target for node in program.graph.nodes if node.op == "get_attr"]
    assert len(names) == len(set(names))


class ByCount(nn.Module):
    """Parts of a batch whose size is not known."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second, third = torch.cat([x, y, x]).chunk(3)
        return first * 2 + third, second, x.split(2)[0], x.chunk(1)[0]


def test_parts_along_a_dynamic_dim_become_slices() -> None:
    program = graphc.capture(ByCount(), (torch.randn(5, 4), torch.randn(5, 4)))
    assert "chunk" not in str(program)
    assert "split" not in str(program)
    for batch in (4, 7):
        x, y = torch.randn(batch, 4), torch.randn(batch, 4)
        for ours, theirs in zip(program(x, y), ByCount()(x, y), strict=True):
            assert torch.equal(ours, theirs)


class Repeated(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 1, output_size=2 * x.shape[1])


def test_the_size_of_a_repetition_is_said_once() -> None:
    program, x = graphc.capture(Repeated(), (torch.randn(4, 3),)), torch.randn(5, 3)
    assert "output_size" not in str(program)
    assert torch.equal(program(x), Repeated()(x))


class ByBounds(nn.Module):
    """Parts that begin at given places, of a size that is known and of one that is not."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second = x.tensor_split([1], 1)
        parts = x.tensor_split(3, 1)
        return first * 2, second, parts[2], x.tensor_split([2], 0)[1]


def test_parts_by_bounds_have_sizes_where_these_are_known() -> None:
    program = graphc.capture(ByBounds(), (torch.randn(5, 7),))
    splits = program.graph.find_nodes(op="call_function", target=torch.ops.aten.split_with_sizes.default)
    assert [node.args[1:] for node in splits] == [([1, 6], 1), ([3, 2, 2], 1)]
    x = torch.randn(6, 7)
    for ours, theirs in zip(program(x), ByBounds()(x), strict=True):
        assert torch.equal(ours, theirs)
