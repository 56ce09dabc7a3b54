"""Walking: every value once, in order, and only while it lives."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.ir.watch import flat_inputs, run_watched, walk
from tests import models


def test_a_walk_gives_what_a_run_gives() -> None:
    program = models.residual()
    seen = list(walk(program, *program.example()))
    assert [s.node for s in seen] == list(program.graph.nodes)
    (output,) = seen[-1].value
    assert torch.equal(output, program(*program.example()[0]))
    convolution = next(s for s in seen if s.node.name == "conv2d_1")
    assert torch.equal(torch.nn.functional.conv2d(*convolution.args), convolution.value)


def test_inputs_of_any_structure() -> None:
    args, kwargs = models.nested()
    program = graphc.capture(models.seeded(models.Nested), args, kwargs)
    reordered = {name: kwargs[name] for name in reversed(kwargs)}
    assert [id(v) for v in flat_inputs(program, args, reordered)] == [id(v) for v in flat_inputs(program, args, kwargs)]
    found = run_watched(program, {}, args, reordered)
    torch.testing.assert_close(found["sum"], program(*args, **kwargs)["sum"])


def test_values_go_when_they_are_not_used_any_more() -> None:
    program = graphc.capture(nn.Sequential(*[nn.Linear(6, 6) for _ in range(9)]).eval(), (models.vectors(),))
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    with torch.no_grad():
        for node, _, _, value in walk(program, *program.example()):
            if node.op == "call_function":
                alive = [ref for ref in [*alive, weakref.ref(value)] if ref() is not None]
                most = max(most, len(alive))
            del value
    assert most == 2


def test_tensors_in_place_of_the_programs_own() -> None:
    program = graphc.capture(nn.Linear(6, 2).eval(), (models.vectors(),))
    own = {"weight": torch.zeros(2, 6)}
    found = run_watched(program, {}, *program.example(), own)
    torch.testing.assert_close(found, program.tensors()["bias"].expand(4, 2))


def test_an_error_says_where() -> None:
    program = models.residual()
    with pytest.raises(RuntimeError) as error:
        list(walk(program, (torch.ones(2, 4, 5, 5),)))
    assert "while computing %conv2d" in error.value.__notes__[0]
