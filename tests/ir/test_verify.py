"""Verification: what no pass may do is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import Graph

import graphc
from graphc.errors import VerifyError
from graphc.ir.edit import find, rebuild
from graphc.ir.program import Program
from graphc.ir.verify import verify
from tests import models
from tests.models import image, nested, seeded

aten = torch.ops.aten


def on_output(change: Callable[[Graph, torch.fx.Node], object]) -> Program:
    """The residual net, with its output replaced."""

    def edit(graph: Graph) -> None:
        output = graph.output_node()
        value = output.args[0][0]
        with graph.inserting_before(output):
            output.args = (change(graph, value),)

    return rebuild(models.residual(), edit)


def test_untouched_programs_pass() -> None:
    args, kwargs = nested()
    for program in (models.residual(), models.transformer(), graphc.capture(seeded(models.Nested), args, kwargs)):
        verify(program)


def test_a_changed_shape_is_named() -> None:
    program = on_output(lambda graph, v: [graph.call_function(aten.slice.Tensor, (v, 1, 0, 3))])
    with pytest.raises(VerifyError, match="output 'output'") as caught:
        verify(program)
    assert "[batch, 5] before" in caught.value.why
    assert "[batch, 3] now" in caught.value.why


def test_a_changed_dtype_is_named() -> None:
    program = on_output(lambda graph, v: [graph.call_function(aten.to.dtype, (v, torch.float64))])
    with pytest.raises(VerifyError, match=r"float32.*before.*float64.*now"):
        verify(program)


def test_a_dynamic_dim_that_became_fixed_is_named() -> None:
    program = on_output(lambda graph, v: [graph.call_function(aten.slice.Tensor, (v, 0, 0, 1))])
    with pytest.raises(VerifyError, match=r"\[batch, 5\] before.*\[1, 5\] now"):
        verify(program)


def test_a_changed_number_of_outputs_is_named() -> None:
    program = on_output(lambda graph, v: [v, v])
    with pytest.raises(VerifyError, match="number of outputs changed") as caught:
        verify(program)
    assert "1 before (output), 2 now" in caught.value.why


def test_a_changed_number_of_inputs_is_named() -> None:
    program = models.residual()
    twice = dataclasses.replace(program.contract, inputs=program.contract.inputs * 2)
    with pytest.raises(VerifyError, match="number of inputs changed"):
        verify(dataclasses.replace(program, contract=twice))


def test_shapes_that_no_longer_fit_name_the_node_and_the_line() -> None:
    program = models.residual()
    with pytest.raises(VerifyError, match="no longer fit") as caught:
        rebuild(program, tensors={"conv2.weight": torch.nn.Parameter(torch.randn(12, 7, 1, 1))})
    assert "conv2d_2" in caught.value.where
    assert "self.conv2(" in caught.value.where


def test_a_malformed_graph_is_refused() -> None:
    program = rebuild(models.residual())
    head = find(program.graph, "linear")
    program.graph.output_node().append(head)
    with pytest.raises(VerifyError, match="malformed"):
        verify(program)


def test_a_malformed_edit_is_refused() -> None:
    with pytest.raises(VerifyError, match="malformed"):
        rebuild(models.residual(), lambda graph: graph.output_node().append(find(graph, "linear")))


def test_a_program_of_another_size_passes() -> None:
    sliced = graphc.slice(models.residual(), {"conv1.out": range(0, 24, 2)})
    verify(sliced)
    assert sliced(image()).shape == (4, 5)


class Shrinking(nn.Module):
    """Height and width end at one in the example, at more for larger images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 4, 1, groups=8)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.relu(self.norm(self.second(self.first(x))))
        return result


def test_sizes_that_are_one_in_the_example_stay_what_they_are_when_shapes_are_computed_again() -> None:
    dims = {"x": {0: "batch", 2: "height", 3: "width"}}
    program = graphc.capture(seeded(Shrinking), (torch.randn(3, 3, 8, 7),), dynamic=dims)
    shape = program.contract.outputs[0].shape
    assert shape == ("batch", 8, "(((height - 1)//8)) + 1", "(((width - 1)//8)) + 1")
    verify(rebuild(program))
