"""Selecting outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphc
from graphc.errors import GraphError
from graphc.ir.outputs import select_outputs
from graphc.ir.program import Program
from graphc.ir.verify import verify

X = torch.randn(2, 4)


class Heads(nn.Module):
    def __init__(self, fields: bool) -> None:
        super().__init__()
        self.trunk, self.pooler, self.fields = nn.Linear(4, 4), nn.Linear(4, 3), fields

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.trunk(x)
        return {"hidden": hidden, "pooled": self.pooler(hidden)} if self.fields else (hidden, self.pooler(hidden))


def captured(fields: bool) -> Program:
    return graphc.capture(Heads(fields), (X,), dynamic={"x": {0: "batch"}})


@pytest.mark.parametrize("key", ["hidden", 0])
def test_a_dict_with_fewer_keys_without_what_the_others_needed(key: str | int) -> None:
    program = captured(True)
    result = select_outputs(program, [key])
    verify(result)
    found = result(torch.ones(3, 4))
    assert set(found) == {"hidden"}
    torch.testing.assert_close(found["hidden"], program(torch.ones(3, 4))["hidden"])
    assert set(result.tensors()) == {"trunk.weight", "trunk.bias"}
    assert [str(s) for s in result.contract.outputs] == ["hidden: float32[batch, 4]"]


def test_a_tuple_of_fewer_that_is_written_to_onnx(tmp_path: Any) -> None:
    program = captured(False)
    result = select_outputs(program, [1])
    verify(result)
    (found,) = result(X)
    torch.testing.assert_close(found, program(X)[1])
    graphc.emit(result, tmp_path / "model.onnx")
    assert len(program.contract.outputs) == 2


@pytest.mark.parametrize(("wanted", "text"), [([], "no output is selected"), (["hiden"], "hidden"), ([2], "output 2")])
def test_bad_selections(wanted: list[str | int], text: str) -> None:
    with pytest.raises(GraphError, match=text):
        select_outputs(captured(True), wanted)
