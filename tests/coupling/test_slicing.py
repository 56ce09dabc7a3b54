"""Slice and mask on small nets: equal, restated, refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphc
from graphc.errors import SliceError
from tests import models
from tests.coupling.proof import exact, half, prove
from tests.models import image, seeded, tokens, vectors

aten = torch.ops.aten

NETS: dict[str, Callable[[], graphc.Program]] = {
    "residual": models.residual,
    "grouped": lambda: graphc.capture(seeded(models.Grouped), (image(),)),
    "concat": lambda: graphc.capture(seeded(models.Concat), (image(),)),
    "transformer": models.transformer,
    "untied transformer": lambda: models.transformer(tied=False),
    "ruleless": lambda: graphc.capture(seeded(models.Ruleless), (vectors(),)),
}


@pytest.mark.parametrize("net", NETS)
def test_half_of_every_axis_at_once(net: str) -> None:
    program = NETS[net]()
    prove(program, half(exact(program)), batch=6)


@pytest.mark.parametrize("net", ["grouped", "concat", "transformer"])
def test_each_axis_alone(net: str) -> None:
    program = NETS[net]()
    for axis in exact(program):
        prove(program, half([axis]), batch=2)


def test_units_may_be_kept_in_another_order() -> None:
    program = models.residual()
    prove(program, {"conv1.out": [20, 3, 7]})
    shuffled = graphc.slice(program, {"conv1.out": list(reversed(range(24)))})
    torch.testing.assert_close(shuffled(image()), program(image()))


def test_all_units_in_another_order_are_the_same_function() -> None:
    program = models.residual()
    turned = graphc.slice(program, {axis: range(axis.size - 1, -1, -1) for axis in exact(program)})
    args, _ = program.example()
    torch.testing.assert_close(turned(*args), program(*args), rtol=1e-4, atol=1e-5)
    assert not torch.equal(turned.tensors()["conv1.weight"], program.tensors()["conv1.weight"])


def test_everything_kept_is_the_same_program() -> None:
    program = models.residual()
    assert str(graphc.slice(program, {"conv1.out": range(24)})) == str(program)


def test_slicing_leaves_the_program_alone_and_writes_history() -> None:
    program = models.residual()
    text, before = str(program), {k: v.clone() for k, v in program.tensors().items()}
    sliced = graphc.slice(program, {"conv1.out": range(6)}, "conv1.out 24 -> 6")
    graphc.mask(program, {"conv1.out": range(6)})
    assert str(program) == text
    assert all(torch.equal(before[k], v) for k, v in program.tensors().items())
    assert sliced.history == ("conv1.out 24 -> 6",)
    assert all(p.requires_grad for p in sliced.parameters())


def test_slices_add_up() -> None:
    program = models.residual()
    twice = graphc.slice(graphc.slice(program, {"conv1.out": range(0, 24, 2)}), {"conv1.out": range(0, 12, 3)})
    once = graphc.slice(program, {"conv1.out": range(0, 24, 6)})
    torch.testing.assert_close(twice(image()), once(image()))


def arguments(program: graphc.Program, op: Any) -> list[tuple[Any, ...]]:
    return [node.args[1:] for node in program.graph.find_nodes(op="call_function", target=op)]


def test_groups_are_restated() -> None:
    program = NETS["grouped"]()
    sliced = graphc.slice(program, {"expand.out": [0, 2]})
    assert [args[-1] for args in arguments(sliced, aten.conv2d.default)[1:3]] == [8, 2]
    assert sliced.tensors()["grouped.weight"].shape == (12, 4, 3, 3)


def test_sizes_of_splits_and_views_are_restated() -> None:
    program = NETS["concat"]()
    sliced = graphc.slice(program, {"mix.out": [1, 4, 9]})
    assert arguments(sliced, aten.split_with_sizes.default) == [([3, 3], 1)]
    assert arguments(sliced, aten.view.default)[0][0][1] == 3 * 7 * 9


def test_heads_times_the_batch_are_restated() -> None:
    program = models.transformer()
    sliced = prove(program, {"blocks.0.attention.heads": [0, 3, 1]}, batch=5, seq=4)
    assert "floordiv" in str(sliced)
    assert sliced.tensors()["blocks.0.attention.qkv.weight"].shape == (45, 24)


def test_normalized_shape_and_expand_are_restated_on_a_mixed_axis() -> None:
    program = graphc.capture(seeded(models.Norms), (vectors(),))
    names = [axis.name for axis in graphc.find_axes(program) if axis.mixed and axis.pinned is None]
    assert names == ["up.out", "up.out_2"]
    sliced = graphc.slice(program, {"up.out": [0, 2, 3]})
    assert arguments(sliced, aten.layer_norm.default)[0][0] == [8]
    assert arguments(sliced, aten.expand.default)[0][0][1] == 8
    assert arguments(sliced, aten.split_with_sizes.default)[0][0] == [3, 3, 2]
    assert sliced(vectors(2)).shape == (2, 3)


def test_a_tied_tensor_is_cut_once() -> None:
    program = models.transformer()
    sliced = graphc.slice(program, {"tokens.out": range(0, 24, 2)})
    assert sliced.aliases == {"head.weight": "tokens.weight"}
    assert sliced.tensors()["tokens.weight"].shape == (37, 12)
    assert sliced(tokens(2, 5)).shape == (2, 5, 37)


def test_a_sliced_program_trains() -> None:
    sliced = graphc.slice(models.transformer(), {"blocks.0.up.out": range(7)})
    sliced(tokens()).square().mean().backward()
    gradients = {name: p.grad for name, p in sliced.module.named_parameters()}
    assert gradients["blocks.0.up.weight"].shape == (7, 24)
    assert all(g is not None and bool(g.abs().sum() > 0) for g in gradients.values())


@pytest.mark.parametrize("act", [slice, graphc.mask], ids=["slice", "mask"])
@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"head.out": [0]}, "pinned: dim 1 of output output"),
        ({"conv1.uot": [0]}, "did you mean 'conv1.out'"),
        ({"conv1.out": []}, "none of its units would be left"),
        ({"conv1.out": [0, 24]}, "unit 24 does not exist"),
        ({"conv1.out": [-1]}, "unit -1 does not exist"),
        ({"conv1.out": [2, 2]}, "given twice"),
    ],
)
def test_what_cannot_be_cut_is_refused(act: Any, kept: dict[str, list[int]], said: str) -> None:
    act = graphc.slice if act is slice else act
    with pytest.raises(SliceError, match=said):
        act(models.residual(), kept)


def test_an_axis_of_another_program_is_refused_where_its_size_is_stale() -> None:
    program = models.residual()
    axis = next(a for a in graphc.find_axes(program) if a.name == "conv1.out")
    sliced = graphc.slice(program, {axis: range(10)})
    with pytest.raises(SliceError, match="find the axes of this program again"):
        graphc.slice(sliced, {axis: range(5)})


def pins(program: graphc.Program) -> dict[str, str | None]:
    return {axis.name: axis.pinned for axis in graphc.find_axes(program)}


def test_pins_say_why() -> None:
    found = pins(models.residual())
    assert found["conv1.out"] is None
    assert found["head.out"] == "dim 1 of output output"
    assert found["stem.weight.1"] == "dim 1 of input x"
    assert "conv2d (stem)" in str(found["stem.weight.2"])


def test_an_op_without_a_rule_pins_what_it_touches_and_no_more() -> None:
    program = NETS["ruleless"]()
    found = pins(program)
    assert "no rule for aten.special_i1e" in str(found["before.out"])
    assert found["free.out"] is None
    with pytest.raises(SliceError, match=r"no rule for aten\.special_i1e"):
        graphc.slice(program, {"before.out": [0]})


def test_positions_read_by_a_slice_are_pinned() -> None:
    assert "sliced by position" in str(pins(models.transformer())["positions.0"])


def test_tied_vocabulary_is_pinned_though_the_head_alone_would_be_free() -> None:
    (reason,) = {v for k, v in pins(models.transformer()).items() if k == "head.out"}
    assert reason is not None


def test_a_constant_output_does_not_stop_the_analysis() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(6, 8)
            self.down = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int, None]:
            return self.down(self.up(x)), 3, None

    program = graphc.capture(seeded(Constant), (vectors(),))
    prove(program, {"up.out": [1, 5]}, batch=2)


class SumOfSizes(torch.nn.Module):
    """A view whose size is computed: a dynamic part plus the width of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(6, 8)
        self.b = torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.a(x).flatten(1), self.b(x.mean(1))], 1)
        return y.view(x.shape[0], x.shape[1] * 8 + 5).sum(1)


def test_a_size_that_adds_dynamic_and_free_parts_pins_the_free_ones() -> None:
    program = graphc.capture(SumOfSizes(), (torch.randn(3, 11, 6),), dynamic={"x": {0: "batch", 1: "seq"}})
    with pytest.raises(graphc.GraphError, match="part of a sum that"):
        graphc.slice(program, {"b.out": [0, 2]})
