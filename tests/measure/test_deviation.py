"""Deviation: exact before the layer that differs, of known size there, and what it means to hold values once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

import graphc
from graphc.errors import GraphError
from graphc.ir.edit import find, rebuild, redirect
from graphc.ir.quantized import DEQUANTIZE, DYNAMIC, FAKE, QUANTIZE
from graphc.measure import Deviations, deviations
from tests import models


def disturbed(program: graphc.Program, name: str, share: float = 0.02) -> graphc.Program:
    """The program with noise on one of its tensors."""
    weight = program.tensors()[name].detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    return rebuild(program, tensors={name: nn.Parameter(weight * (1 + share * noise))})


def compare(reference: graphc.Program, other: graphc.Program) -> Deviations:
    return deviations(reference, other, [reference.example()])


def decibels(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    return float(10 * torch.log10(x.square().sum() / (x - y).square().sum()))


def bert() -> graphc.Program:
    model, inputs = models.tiny_bert()
    return graphc.capture(model, kwargs=inputs)


@pytest.mark.parametrize(
    ("build", "weight", "first"),
    [
        (models.residual, "conv1.weight", "conv2d_1"),
        (bert, "bert.encoder.layer.1.intermediate.dense.weight", "linear_10"),
    ],
)
def test_exact_before_a_layer_and_finite_after_it(build: Callable[[], graphc.Program], weight: str, first: str) -> None:
    program = build()
    found = compare(program, disturbed(program, weight))
    names = [value.name for value in found.values]
    order = [node.name for node in program.graph.nodes]
    assert names == [name for name in order if name in names]
    assert (found.only_reference, found.only_other) == ((), ())
    at = names.index(first)
    assert all(value.sqnr_db == math.inf and value.max_abs == 0 for value in found.values[:at])
    assert all(15 < value.sqnr_db < 120 and value.max_abs > 0 for value in found.values[at:])
    assert found.values[at].module == weight.rpartition(".")[0]
    assert found.values[at].reads_db == math.inf
    assert found.worst(1) == [found.values[at]]
    (output,) = found.outputs
    assert output.sqnr_db == pytest.approx(found.values[-1].sqnr_db)


def test_known_figures() -> None:
    program = graphc.capture(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), (models.vectors(),))
    other = disturbed(program, "0.weight", 0.1)
    x = models.vectors()
    before, after = (F.linear(x, p.tensors()["0.weight"], p.tensors()["0.bias"]).detach() for p in (program, other))
    linear, relu, last = compare(program, other).values
    assert linear.sqnr_db == pytest.approx(decibels(before, after), abs=1e-4)
    assert linear.relative_error == pytest.approx(float((before - after).norm() / before.norm()), rel=1e-5)
    assert linear.max_abs == pytest.approx(float((before - after).abs().max()))
    assert linear.shape == ("batch", 8)
    assert (relu.reads, last.reads) == (("linear",), ("relu",))
    assert last.drop_db == relu.sqnr_db - last.sqnr_db
    added = 10 ** (-relu.sqnr_db / 10) - 10 ** (-linear.sqnr_db / 10)
    assert relu.added_db == pytest.approx(-10 * math.log10(added) if added > 0 else math.inf)


def test_sums_over_batches_are_those_of_one_batch() -> None:
    program = models.residual()
    other = disturbed(program, "stem.weight")
    images = models.image(12)
    images[4:8] *= 30  # a mean of decibels would be another number
    whole = deviations(program, other, [((images,), {})])
    parts = deviations(program, other, [((part,), {}) for part in images.split([4, 5, 3])])
    for a, b in zip([*whole.values, *whole.outputs], [*parts.values, *parts.outputs], strict=True):
        assert b.sqnr_db == pytest.approx(a.sqnr_db, abs=1e-3)
        assert (b.name, b.max_abs) == (a.name, pytest.approx(a.max_abs, rel=1e-3))


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch
    """Counts the tensors of one size that live at a time."""

    def __init__(self, numel: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch
        self.numel, self.most = numel, 0
        self.alive = WeakIdKeyDictionary()  # type: ignore[no-untyped-call] # torch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() == self.numel:
            self.alive[result] = None
            self.most = max(self.most, len(self.alive))
        return result


@pytest.mark.parametrize("depth", [4, 24])
def test_values_live_only_until_they_are_compared(depth: int) -> None:
    layers = [nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(depth)]
    program = graphc.capture(nn.Sequential(*layers).eval(), (models.vectors(),))
    other = disturbed(program, "0.0.weight")
    batch = models.vectors(1000)
    with Live(batch.numel()) as live:
        deviations(program, other, [((batch,), {})] * 2)
    assert 4 <= live.most <= 14  # two in each program, and what one comparison makes


def rounding(way: str) -> Callable[[Graph], None]:
    """Makes integers of what the first relu gives, and numbers again."""

    def edit(graph: Graph) -> None:
        node = find(graph, "relu_default")
        users = list(node.users)
        with graph.inserting_before(node.next):
            scale, zero = (graph.create_node("get_attr", name) for name in ("scale", "zero"))
            if way == "fake":
                made = graph.call_function(FAKE, (node, scale, zero, 0, 255))
            elif way == "static":
                made = graph.call_function(
                    DEQUANTIZE, (graph.call_function(QUANTIZE, (node, scale, zero, 0, 255)), scale, zero)
                )
            else:
                whole = graph.call_function(DYNAMIC, (node,))
                made = graph.call_function(
                    DEQUANTIZE, tuple(graph.call_function(getitem, (whole, i)) for i in range(3))
                )
        for user in users:
            user.replace_input_with(node, made)

    return edit


@pytest.mark.parametrize("way", ["fake", "static", "dynamic"])
def test_a_rounded_value_is_compared_with_what_it_rounds(way: str) -> None:
    program = models.residual()
    numbers = {"scale": torch.tensor(0.02), "zero": torch.tensor(0, dtype=torch.uint8)}
    found = compare(program, rebuild(program, rounding(way), tensors=numbers))
    rows = {value.twin: value for value in found.values if value.name != value.twin}
    assert list(rows) == ["relu_default"]
    rounded = rows["relu_default"]
    assert (rounded.reads, rounded.reads_db, rounded.module) == (("relu_default",), math.inf, "act")
    assert 20 < rounded.sqnr_db < 60
    assert next(value for value in found.values if value.name == "relu_default").sqnr_db == math.inf
    assert next(value for value in found.values if value.name == "conv2d_1").reads == (rounded.name,)
    assert rounded.added_db == pytest.approx(rounded.sqnr_db)
    assert (found.only_reference, found.only_other) == ((), ())


def test_a_norm_that_became_part_of_a_convolution() -> None:
    program = models.residual()
    tensors = program.tensors()
    gain = tensors["norm1.weight"] / (tensors["norm1.running_var"] + 1e-5).sqrt()
    new = {
        "conv1.weight": tensors["conv1.weight"] * gain[:, None, None, None],
        "conv1.bias": (tensors["conv1.bias"] - tensors["norm1.running_mean"]) * gain + tensors["norm1.bias"],
    }
    folded = redirect(
        rebuild(program, tensors={k: nn.Parameter(v.detach()) for k, v in new.items()}), {"batch_norm_1": "conv2d_1"}
    )
    found = compare(program, folded)
    row = next(value for value in found.values if value.name == "conv2d_1")
    assert row.twin == "batch_norm_1"
    assert all(value.sqnr_db > 120 and not value.rescaled for value in found.values)
    assert (found.only_reference, found.only_other) == (("conv2d_1",), ())


def rescaled(back: float) -> tuple[graphc.Program, graphc.Program]:
    """Units of a hidden layer times powers of two, which the next layer takes back, or not."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    program = disturbed(graphc.capture(model, (models.vectors(64),)), "0.weight", 0.01)
    tensors = program.tensors()
    scale = 2.0 ** (torch.arange(8) - 2)
    new = {
        "0.weight": tensors["0.weight"] * scale[:, None],
        "0.bias": tensors["0.bias"] * scale,
        "2.weight": tensors["2.weight"] / scale**back,
    }
    other = rebuild(program, tensors={k: nn.Parameter(v.detach()) for k, v in new.items()})
    return graphc.capture(model, (models.vectors(64),)), other


def test_a_value_that_was_rescaled_on_purpose() -> None:
    program, other = rescaled(back=1.0)
    linear, relu, last = compare(program, other).values
    assert (linear.rescaled, relu.rescaled, last.rescaled) == (True, True, False)
    for value in (linear, relu, last):
        assert 35 < value.sqnr_db < 55
    assert linear.max_abs > 1
    assert relu.reads_db == linear.sqnr_db
    assert last.reads_db == relu.sqnr_db


def test_a_scale_that_is_not_taken_back_is_an_error() -> None:
    program, other = rescaled(back=0.0)
    linear, relu, last = compare(program, other).values
    assert not any(value.rescaled for value in (linear, relu, last))
    assert linear.sqnr_db < 3
    assert last.sqnr_db < 3


def test_a_small_branch_is_not_taken_for_a_rescaled_one() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x)) * 1e-3

    program = graphc.capture(Branch().eval(), (models.vectors(64),))
    found = compare(program, disturbed(program, "up.weight", 0.5))
    assert found.outputs[0].sqnr_db > 50
    assert found.worst(1) == [found.values[0]]
    assert found.values[0].sqnr_db < 15
    assert not found.values[0].rescaled


def test_not_finite_and_beyond_all_bounds() -> None:
    class Masked(nn.Module):
        def __init__(self, mask: float, spoil: float) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, mask, 0.0]))
            self.register_buffer("spoil", torch.tensor([0.0, 0.0, spoil]))

        def forward(self, x: Tensor) -> Tensor:
            return ((x + self.mask).softmax(-1) * 2 + self.spoil) * 3

    def program(mask: float, spoil: float) -> graphc.Program:
        return graphc.capture(Masked(mask, spoil).eval(), (models.vectors(4, 3),))

    least = torch.finfo(torch.float32).min
    for mask in (-math.inf, least):
        first = compare(program(mask, 0.0), program(mask, 0.0))
        assert {value.sqnr_db for value in first.values} == {math.inf}
    scores = compare(program(least, 0.0), disturbed(program(least, 0.0), "spoil")).values[0]
    assert scores.sqnr_db == math.inf
    broken = compare(program(-math.inf, 0.0), program(-math.inf, math.nan))
    assert [value.sqnr_db for value in broken.values] == [math.inf] * 3 + [-math.inf] * 2
    assert broken.worst(1) == [broken.values[3]]
    assert not any(value.rescaled for value in broken.values)
    assert broken.outputs[0].max_abs == math.inf
    text = json.dumps(broken.to_dict(), allow_nan=False)
    assert json.loads(text)["values"][0]["sqnr_db"] is None


def test_zeros() -> None:
    program = graphc.capture(nn.Linear(6, 3).eval(), (models.vectors(),))
    zeros = rebuild(program, tensors={n: nn.Parameter(torch.zeros_like(v)) for n, v in program.tensors().items()})
    assert compare(zeros, zeros).outputs[0].sqnr_db == math.inf
    (output,) = compare(zeros, program).outputs
    assert (output.sqnr_db, output.relative_error) == (-math.inf, math.inf)
    assert compare(program, zeros).outputs[0].sqnr_db == pytest.approx(0)


def test_values_of_other_sizes_are_counted() -> None:
    program = models.residual()
    axis = next(a for a in graphc.find_axes(program) if a.name == "conv1.out")
    found = compare(program, graphc.slice(program, {axis: range(12)}))
    assert found.only_reference == found.only_other == ("conv2d_1", "batch_norm_1", "relu_default_1")
    assert next(value for value in found.values if value.name == "conv2d_2").reads == ("relu_default",)


def test_one_name_and_op_in_another_module_is_no_twin() -> None:
    class Two(nn.Module):
        def __init__(self, skip: bool) -> None:
            super().__init__()
            self.skip = skip
            self.left, self.right, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.right(x if self.skip else self.left(x)))

    first, second = (graphc.capture(models.seeded(Two, skip), (models.vectors(),)) for skip in (False, True))
    found = compare(first, second)
    assert [(value.name, value.twin, value.module) for value in found.values] == [("linear_1", "linear_2", "last")]


def test_modules() -> None:
    program = bert()
    found = compare(program, disturbed(program, "bert.encoder.layer.0.output.dense.weight"))
    rows = found.by_module()
    assert all(a.module != b.module for a, b in zip(rows.values, rows.values[1:], strict=False))
    attention = next(v for v in rows.values if v.module == "bert.encoder.layer.1.attention.self" and len(v.reads) > 1)
    assert len(attention.reads) == 3  # query, key, value
    assert attention.reads_db < math.inf
    assert rows.worst(1)[0].module == "bert.encoder.layer.0.output.dense"
    assert rows.outputs == found.outputs


def test_onnx_files_show_their_outputs(tmp_path: Path) -> None:
    program = bert()
    other = disturbed(program, "classifier.weight")
    graphc.emit(other, tmp_path / "b.onnx")
    found = deviations(program, tmp_path / "b.onnx", [program.example()])
    assert found.values == ()
    (output,) = found.outputs
    assert output.name == "logits"
    assert output.sqnr_db == pytest.approx(compare(program, other).outputs[0].sqnr_db, abs=0.01)
    args, kwargs = program.example()
    (back,) = deviations(tmp_path / "b.onnx", other, [(args, kwargs)]).outputs
    assert back.sqnr_db > 100


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            lambda: graphc.capture(nn.Linear(6, 2).eval(), (models.vectors(),)),
            ["input x: float32[batch, 6]", "has not"],
        ),
        (
            lambda: graphc.capture(Doubled(6, torch.float64), (models.vectors().double(),)),
            ["float64[batch, 6]", "float32[batch, 6]"],
        ),
        (lambda: graphc.capture(Doubled(5), (models.vectors(4, 5),)), ["[batch, 5]", "[batch, 6]"]),
        (lambda: graphc.capture(Doubled(6, outputs=3), (models.vectors(),)), ["output_2", "has not"]),
    ],
)
def test_programs_that_do_not_fit(other: Callable[[], graphc.Program], words: Sequence[str]) -> None:
    program = graphc.capture(Doubled(6), (models.vectors(),))

    def never() -> Any:
        raise AssertionError("no work before the error")
        yield

    with pytest.raises(GraphError) as error:
        deviations(program, other(), never())
    assert all(word in str(error.value) for word in words), str(error.value)


class Doubled(nn.Module):
    """Gives its input several times."""

    def __init__(self, width: int, dtype: torch.dtype = torch.float32, outputs: int = 2) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(width, dtype=dtype))
        self.outputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(x * self.gain for _ in range(self.outputs))


def test_inputs_that_one_of_both_does_not_take() -> None:
    free = graphc.capture(nn.Linear(6, 2).eval(), (models.vectors(),))
    fixed = graphc.capture(nn.Linear(6, 2).eval(), (models.vectors(),), dynamic={})
    assert deviations(free, fixed, [((models.vectors(4),), {})]).outputs
    with pytest.raises(GraphError, match=r"takes input: float32\[4, 6\], and one is \[5, 6\]"):
        deviations(free, fixed, [((models.vectors(5),), {})])
    with pytest.raises(GraphError, match="there is no batch"):
        deviations(free, fixed, [])
    with pytest.raises(GraphError, match="it takes 1 by place, none by name, and there are 0 by place, input by name"):
        deviations(free, fixed, [((), {"input": models.vectors(4)})])
