"""Names of values in artifacts: what was written under a name is read under it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.fx import Graph

import graphc
from graphc.emitters import emit, load
from graphc.emitters.naming import names_of, renamed
from graphc.ir.edit import find, rebuild
from graphc.ir.verify import verify
from tests import models
from tests.emitters.programs import program


@pytest.mark.parametrize("target", ["x.pt2", "x/"])
@pytest.mark.parametrize("name", ["residual/2", "bert", "nested"])
def test_names_survive(name: str, target: str, tmp_path: Path) -> None:
    before = program(name)
    emit(before, f"{tmp_path}/{target}")
    after = load(f"{tmp_path}/{target}")
    assert names_of(after) == names_of(before)
    verify(after)


def test_export_alone_would_number_them_anew(tmp_path: Path) -> None:
    before = program("residual")
    emit(before, tmp_path / "x.pt2")
    assert "relu_default_1" in [entry[0] for entry in names_of(before)]
    assert "relu_default_1" not in [
        entry[0] for entry in names_of(graphc.capture(torch.export.load(tmp_path / "x.pt2")))
    ]


def test_an_op_that_is_written_as_several() -> None:
    before = models.residual()

    def spell(graph: Graph) -> None:
        relu = find(graph, "relu_default_1")
        with graph.inserting_before(relu):
            sign = graph.call_function(torch.ops.aten.gt.Scalar, (relu.args[0], 0))
            mul = graph.call_function(torch.ops.aten.mul.Tensor, (relu.args[0], sign))
        sign.meta = mul.meta = dict(relu.meta)
        relu.replace_all_uses_with(mul)

    read = rebuild(before, spell)
    after = renamed(read, names_of(before))
    names = {node.name: node for node in after.graph.nodes}
    assert names["relu_default_1"].target is torch.ops.aten.mul.Tensor
    assert "gt_scalar_written" in names
    assert [n for n in names if n in {e[0] for e in names_of(before)}] == [e[0] for e in names_of(before)]
    torch.testing.assert_close(after(*before.example()[0]), before(*before.example()[0]))
    verify(after)


def test_names_that_others_have_are_free_for_their_owners() -> None:
    before = program("residual")
    recorded = names_of(before)
    recorded[0][0] = "stem_weight"  # as the parameter's node is called
    after = renamed(before, recorded)
    assert names_of(after) == recorded
    assert len({node.name for node in after.graph.nodes}) == len(after.graph.nodes)


def test_nothing_recorded() -> None:
    before = program("residual")
    assert renamed(before, ()) is before
