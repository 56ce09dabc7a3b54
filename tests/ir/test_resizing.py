from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

import graphc
from graphc.errors import VerifyError
from graphc.ir.resizing import Resizing
from graphc.ir.shapes import Shapes, refresh
from tests.models import Residual


class Joined(torch.nn.Module):
    """Sizes of every kind: of the example alone, times a symbol, plus a symbol, in parts and in views with gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(5, 36)
        self.out = torch.nn.Linear(12, 5)
        self.first = torch.nn.Parameter(torch.randn(1, 1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        x = torch.cat([self.first.expand(batch, -1, -1), x], 1)
        q, k, v = self.qkv(x).view(batch, length + 1, 3, 4, 3).permute(2, 0, 3, 1, 4).unbind(0)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        rows = attended.transpose(1, 2).reshape(batch * (length + 1), -1)
        return self.out(rows).view(batch, -1, 5)[:, 1:]


def kinds(program: graphc.Program) -> dict[str, Any]:
    """What is known of each value; the stride of a dim of size 1 says nothing."""

    def told(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            strides = [str(n) for n, size in zip(value.stride(), value.shape, strict=True) if str(size) != "1"]
            return value.dtype, value.device, [*map(str, value.shape)], strides, str(value.storage_offset())
        return [*map(told, value)] if isinstance(value, (list, tuple)) else str(value)

    return {node.name: told(node.meta.get("val")) for node in program.graph.nodes}


@pytest.mark.parametrize(
    ("model", "inputs", "dynamic"),
    [
        (Residual(), torch.randn(3, 3, 16, 16), {"x": {0: "batch"}}),
        (Residual(), torch.randn(3, 3, 16, 16), {}),
        (Joined(), torch.randn(4, 7, 5), {"x": {0: "batch", 1: "length"}}),
    ],
)
def test_sizes_after_a_slice_are_those_that_symbols_give(
    model: torch.nn.Module, inputs: torch.Tensor, dynamic: Any
) -> None:
    program = graphc.capture(model, (inputs,), dynamic=dynamic)
    kept = {axis: range(axis.size // 2) for axis in graphc.find_axes(program) if axis.pinned is None}
    sliced = graphc.slice(program, kept)
    found = kinds(sliced)
    assert found != kinds(program)
    refresh(sliced.module)
    assert found == kinds(sliced)


def test_few_ops_are_run_on_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    program = graphc.capture(Joined(), (torch.randn(4, 7, 5),), dynamic={"x": {0: "batch", 1: "length"}})
    axis = next(axis for axis in graphc.find_axes(program) if axis.pinned is None)
    run, calls = Shapes.compute, []
    monkeypatch.setattr(Shapes, "compute", lambda self, node: (calls.append(node.name), run(self, node))[1])
    graphc.slice(program, {axis: range(axis.size - 1)})
    assert 0 < len(calls) < 15, calls
    assert not {"linear", "permute", "scaled_dot_product_attention", "linear_1"} & set(calls)


def test_what_no_longer_fits_names_the_node() -> None:
    program = graphc.capture(Residual(), (torch.randn(3, 3, 16, 16),))
    name = next(name for name, value in program.tensors().items() if value.dim() == 4 and value.shape[1] > 3)
    module = program.module
    owner, _, leaf = name.rpartition(".")
    weight = torch.nn.Parameter(module.get_submodule(owner).get_parameter(leaf).detach()[:, :-1].clone())
    setattr(module.get_submodule(owner), leaf, weight)
    with pytest.raises(VerifyError, match="shapes no longer fit"):
        refresh(module, Resizing)


@pytest.mark.parametrize(
    ("size", "now", "expected"),
    [("12*s", 24, "6*s"), ("12*s", 4, "s"), ("s + 12", 10, None), ("12*s", 25, None), ("s", 4, "s")],
)
def test_a_size_scales_only_if_it_is_a_product(size: str, now: int, expected: str | None) -> None:
    env = ShapeEnv()
    symbol = env.create_unspecified_symint_and_symbol(4, ConstantSource("s"), DimDynamic.DYNAMIC)
    shapes = Resizing(torch.fx.GraphModule({}, torch.fx.Graph()), FakeTensorMode(shape_env=env))
    scaled = shapes._size(eval(size, {"s": symbol}), now)
    assert (scaled is None) == (expected is None)
    if expected is not None:
        assert str(scaled) == str(eval(expected, {"s": symbol}))
