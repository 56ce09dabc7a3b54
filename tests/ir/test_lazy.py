from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import graphc
from graphc.errors import CaptureError, GraphError
from graphc.ir import lazy
from graphc.ir.checkpoint import read_checkpoint
from graphc.ir.hollow import stand_in, without_memory
from graphc.ir.lazy import LazyTensor, is_lazy
from tests import models


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, tuple[LazyTensor, torch.Tensor]]:
    real = {
        "matrix": torch.randn(7, 5),
        "kernel": torch.randn(4, 3, 2, 2, dtype=torch.float64),
        "half": torch.randn(6, 9).bfloat16(),
        "count": torch.tensor(12),
        "none": torch.zeros(0, 3),
    }
    save_file(real, tmp_path / "t.safetensors")
    sources = read_checkpoint(tmp_path / "t.safetensors")
    return {name: (LazyTensor(sources[name]), value) for name, value in real.items()}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return type(a) is torch.Tensor and a.dtype == b.dtype and torch.equal(a, b)


def test_a_lazy_tensor_says_what_it_is_and_computes_as_what_it_stands_for(
    stored: dict[str, tuple[LazyTensor, torch.Tensor]],
) -> None:
    for one, real in stored.values():
        assert (one.shape, one.dtype, one.stride(), one.nbytes) == (real.shape, real.dtype, real.stride(), real.nbytes)
        assert one.device == real.device
        assert type(one.detach()) is LazyTensor
        assert same(one + 1, real + 1)
        assert same(torch.stack([one, one]), torch.stack([real, real]))
        assert "LazyTensor" in repr(one)
    one, real = stored["matrix"]
    x = torch.randn(2, 5)
    assert same(torch.ops.aten.linear.default(x, one), torch.nn.functional.linear(x, real))
    assert same(x @ one.t(), x @ real.t())


def test_cuts_are_noted_and_come_one_after_the_other(stored: dict[str, tuple[LazyTensor, torch.Tensor]]) -> None:
    one, real = stored["kernel"]
    for dim, index in ((0, [3, 1, 2]), (1, [2, 0]), (0, [2, 0]), (-1, [1]), (1, [0])):
        one, real = (t.index_select(dim, torch.tensor(index)) for t in (one, real))
        assert type(one) is LazyTensor
        assert one.shape == real.shape
    assert same(one.read(), real)


def test_cuts_read_nothing(stored: dict[str, tuple[LazyTensor, torch.Tensor]]) -> None:
    one, _ = stored["matrix"]
    one.source.path.unlink()
    cut = one.index_select(0, torch.tensor([1, 2]))
    assert tuple(cut.shape) == (2, 5)
    with pytest.raises(GraphError, match="can no longer be read"):
        cut.sum()


@pytest.mark.parametrize("size", [1, 40, 2**26])
def test_blocks_are_the_tensor(
    stored: dict[str, tuple[LazyTensor, torch.Tensor]], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "BLOCK", size)
    for one, real in stored.values():
        for cut in [None, *range(real.dim())] if real.numel() > 1 else [None]:
            index = torch.tensor([2, 0])
            part, wanted = (t if cut is None else t.index_select(cut, index % t.shape[cut]) for t in (one, real))
            blocks = list(part.blocks())  # type: ignore[attr-defined] # a lazy one
            assert same(torch.cat([wanted[:0], *blocks]) if wanted.dim() else blocks[0], wanted)
            row = math.prod(real.shape[1:]) * real.itemsize
            assert all(len(block) <= max(1, size // max(row, 1)) for block in blocks if wanted.dim())


def test_nothing_changes_one(stored: dict[str, tuple[LazyTensor, torch.Tensor]]) -> None:
    one, real = stored["matrix"]
    for change in (lambda: one.mul_(2), lambda: setattr(one, "data", real), lambda: torch.relu_(one)):
        with pytest.raises(GraphError, match="cannot be changed in place"):
            change()
    assert copy.deepcopy(one) is one
    assert same(one.read(), real)


def test_a_file_that_changed_is_seen(stored: dict[str, tuple[LazyTensor, torch.Tensor]]) -> None:
    one, real = stored["matrix"]
    save_file({"matrix": real[:, :4].contiguous()}, one.source.path)
    with pytest.raises(GraphError, match="the file has changed"):
        one.read()


def test_models_without_memory_keep_buffers_and_ties() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = nn.Parameter(torch.randn(4, 4))
            self.a = self.b = weight
            self.c = nn.Linear(4, 4)
            self.d = nn.Linear(4, 4)
            self.d.weight = self.c.weight
            self.register_buffer("numbers", torch.arange(3.0))

    with without_memory():
        model = Tied()
    assert all(value.is_meta for value in model.parameters())
    assert model.numbers.tolist() == [0, 1, 2]
    stand_in(model)
    assert model.a is model.b
    assert model.c.weight is model.d.weight
    assert all(value.untyped_storage().nbytes() == 4 for value in model.parameters())
    assert not nn.Linear(2, 2).weight.is_meta


def test_buffers_that_are_computed_from_parameters_are_refused() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("total", self.weight.detach().sum())

    with without_memory():
        model = Sum()
    with pytest.raises(CaptureError, match="without memory"):
        stand_in(model)


@pytest.mark.parametrize(("kind", "shape"), [(models.Residual, (3, 7, 9)), (models.Grouped, (3, 7, 9))])
def test_programs_in_files_are_those_in_memory(kind: type[nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    model = models.seeded(kind)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    x = (torch.randn(4, *shape),)
    whole = graphc.capture(model, x)
    part = graphc.capture_lazily(kind, tmp_path / "w.safetensors", x)
    assert is_lazy(part.tensors())
    assert str(part) == str(whole)
    free = [axis for axis in graphc.find_axes(whole) if axis.pinned is None]
    kept = {axis.name: list(range(0, axis.size, 2)) for axis in free}
    assert kept
    cut, wanted = (graphc.slice(program, kept) for program in (part, whole))
    for name, value in wanted.tensors().items():
        found = cut.tensors()[name]
        assert isinstance(found, nn.Parameter) == isinstance(value, nn.Parameter)
        assert torch.equal(found, value)
    assert all(isinstance(value, LazyTensor) for value in cut.tensors().values() if value.is_floating_point())
    with torch.no_grad():
        assert torch.equal(cut(*x), wanted(*x))
    graphc.verify(cut)
    assert graphc.cost(cut) == graphc.cost(wanted)
