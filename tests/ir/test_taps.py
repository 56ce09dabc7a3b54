from __future__ import annotations

import pytest
import torch
from torch import fx, nn

import graphc
from graphc.errors import GraphError
from graphc.ir.contract import Contract, TensorSpec
from graphc.ir.graph import attribute
from graphc.ir.program import Program
from graphc.ir.taps import tapped
from tests import models


def nested() -> graphc.Program:
    args, kwargs = models.nested()
    return graphc.capture(models.seeded(models.Nested), args, kwargs)


def test_outputs_keep_their_structure_and_values_follow() -> None:
    program = nested()
    args, kwargs = models.nested()
    outputs, (left, add) = tapped(program, ["linear", "add"])(*args, **kwargs)
    expected = program(*args, **kwargs)
    assert list(outputs) == ["sum", "parts"]
    assert isinstance(outputs["parts"], tuple)
    for one, other in zip(outputs["parts"], expected["parts"], strict=True):
        assert torch.equal(one, other)
    weight, bias = (attribute(program.module, f"left.{name}") for name in ("weight", "bias"))
    assert torch.equal(left, nn.functional.linear(args[0]["a"], weight, bias))
    assert torch.equal(add, expected["sum"])


def test_an_output_of_a_class_stays_one() -> None:
    model, kwargs = models.tiny_bert()
    program = graphc.capture(model, (), kwargs)
    outputs, values = tapped(program, [])(**kwargs)
    assert type(outputs) is type(model(**kwargs))
    assert torch.equal(outputs.logits, program(**kwargs).logits)
    assert values == []


def test_tensors_are_the_programs_own_and_gradients_reach_them() -> None:
    program = models.residual()
    module = tapped(program, ["conv2d_1"])
    for name, value in program.tensors().items():
        assert attribute(module, name) is value
    assert list(map(id, module.parameters())) == list(map(id, program.parameters()))
    module(models.image())[1][0].sum().backward()
    stem, head = (attribute(program.module, name) for name in ("stem.weight", "head.weight"))
    assert stem.grad is not None
    assert stem.grad.abs().sum() > 0
    assert head.grad is None


def test_the_program_is_left_alone_and_the_mode_kept() -> None:
    program = graphc.set_training(models.residual(), True)
    before = str(program), program.module.code
    module = tapped(program, ["conv2d"])
    assert module.training
    assert not tapped(models.residual(), []).training
    assert isinstance(program(models.image()), torch.Tensor)
    assert (str(program), program.module.code) == before
    assert isinstance(module, fx.GraphModule)


def test_a_value_may_be_tapped_twice_and_be_an_input() -> None:
    program = models.residual()
    x = models.image()
    _, (first, second, given) = tapped(program, ["conv2d", "conv2d", "x"])(x)
    assert torch.equal(first, second)
    assert given is x


def test_a_graph_without_a_pytree() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.ops.aten.relu.default, (x,))
    z = graph.call_function(torch.ops.aten.neg.default, (y,))
    graph.output((z, y))
    spec = TensorSpec("x", torch.float32, (4, 6))
    program = Program(fx.GraphModule({}, graph), Contract((spec,), (spec, spec), (models.vectors(),), {}, {}))
    (neg, relu), (value,) = tapped(program, [y.name])(models.vectors())
    assert torch.equal(value, models.vectors().relu())
    assert torch.equal(relu, value)
    assert torch.equal(neg, -value)
    assert len(program(models.vectors())) == 2


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(GraphError, match=r"no node is called 'conv2d_7'[\s\S]*'conv2d_1'"):
        tapped(models.residual(), ["conv2d_7"])
