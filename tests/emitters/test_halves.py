"""How near a file in half precision has to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.emitters import emit
from graphc.emitters.halves import in_float32
from graphc.emitters.onnx import OnnxEmitter
from graphc.ir.verify import verify
from tests import models


class Net(nn.Module):
    """Half precision from its input to its output, with ops that are told their type."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x).relu() + torch.full((40,), 0.1, dtype=x.dtype, device=x.device)
        return self.down(x.float().softmax(-1).to(x.dtype))


def halves(dtype: torch.dtype = torch.float16) -> graphc.Program:
    return graphc.capture(models.seeded(Net).to(dtype), (torch.randn(4, 6, dtype=dtype),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_values_in_float32(dtype: torch.dtype) -> None:
    before = halves(dtype)
    after = in_float32(before)
    assert after is not None
    types = {n.meta["val"].dtype for n in after.graph.nodes if n.op != "placeholder" and n.op != "output"}
    assert types == {torch.float32}
    x = before.example()[0][0]
    with torch.no_grad():
        expected = models.seeded(Net).to(dtype).float()(x.float())
        torch.testing.assert_close(after(x), expected, atol=1e-6, rtol=1e-5)
    assert after.tensors()["up.weight"].dtype == torch.float32
    assert before.tensors()["up.weight"].dtype == dtype


def test_what_has_no_half_precision_is_left_alone() -> None:
    assert in_float32(models.residual()) is None
    emitter = OnnxEmitter()
    assert emitter.allowed(models.residual()) == emitter.tolerance


def test_an_onnx_file_may_be_as_far_off_as_rounding_is(tmp_path: Path) -> None:
    program = halves()
    verify(program)
    artifact = emit(program, tmp_path / "x.onnx")
    allowed = OnnxEmitter().allowed(program)
    assert callable(allowed)
    args, kwargs = program.example()
    with torch.no_grad():
        most = allowed(args, kwargs, program(*args, **kwargs))
    assert artifact.error <= most < 2e-3
