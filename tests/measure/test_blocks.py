"""Blocks: every op is in one, and its key at other sizes is the key that a program cut to these sizes has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import graphc
from graphc.coupling import slice
from graphc.errors import GraphError
from graphc.ir.edit import constants
from graphc.ir.graph import module_path
from graphc.measure.blocks import find_blocks, is_value
from tests import models
from tests.models import image


def bert() -> graphc.Program:
    pytest.importorskip("transformers")
    model, inputs = models.tiny_bert()
    return graphc.capture(model.eval(), (), inputs)


def captured(kind: Callable[[], nn.Module]) -> graphc.Program:
    return graphc.capture(kind().eval(), (image(),))


PROGRAMS = {
    "residual": lambda: captured(models.Residual),
    "grouped": lambda: graphc.capture(models.Grouped().eval(), (torch.randn(3, 3, 8, 8),)),
    "bert": bert,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_op_is_in_one_block(name: str) -> None:
    program = PROGRAMS[name]()
    fixed = constants(program.graph)
    ops = [n for n in program.graph.nodes if n.op == "call_function" and is_value(n) and n not in fixed]
    found = [node for block in find_blocks(program).blocks for node in block.nodes]
    assert sorted(n.name for n in found) == sorted(n.name for n in ops)


@pytest.mark.parametrize("name", PROGRAMS)
def test_keys_at_other_sizes_are_those_of_the_program_that_was_cut(name: str) -> None:
    program = PROGRAMS[name]()
    blocks = find_blocks(program)
    needs = {need.axis.root() for need in blocks.analysis.needs}
    free = [a for a in blocks.analysis.axes if a.pinned is None and a not in needs and a.size > 2]
    assert len(free) > 1
    at = {axis: axis.size - 1 for axis in free}
    cut = find_blocks(slice(program, {axis: range(size) for axis, size in at.items()}))
    here = [(block.family, block.sizes(at)) for block in blocks.blocks]
    assert here == [(block.family, block.sizes()) for block in cut.blocks]
    assert here != [(block.family, block.sizes()) for block in blocks.blocks]


def test_what_follows_a_product_and_is_read_by_nothing_else_is_in_its_block() -> None:
    families = [block.family for block in find_blocks(captured(models.Residual)).blocks]
    assert families[0].startswith("conv2d(x0f32[1,3,")
    assert "batch_norm(" in families[0]
    assert "relu(" in families[0]


def test_layers_that_are_alike_have_one_family() -> None:
    found = find_blocks(bert()).blocks
    keys = [(block.family, block.sizes()) for block in found if "encoder.layer" in module_path(block.nodes[0])]
    assert len(keys) > 12
    assert len(set(keys)) <= len(keys) / 2 + 1  # of two layers


def test_the_batch_is_one_unless_given() -> None:
    program = captured(models.Residual)
    assert "f32[1,3," in find_blocks(program).blocks[0].family
    assert "f32[5,3," in find_blocks(program, {"batch": 5}).blocks[0].family
    with pytest.raises(GraphError, match="no dynamic dim is called 'bach'"):
        find_blocks(program, {"bach": 5})
