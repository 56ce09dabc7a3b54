"""Experts that a router chooses by value: removing some leaves a router that chooses among the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.axes.axis import Axis
from graphc.errors import SliceError

KEPT = [0, 2, 3, 5]


class Experts(nn.Module):
    """A router gives each row its two best experts; ``way`` is how their weights are found."""

    def __init__(self, way: str, count: int = 6) -> None:
        super().__init__()
        self.way, self.count = way, count
        self.router = nn.Linear(7, count)
        self.up, self.down = nn.Parameter(torch.randn(count, 7, 9)), nn.Parameter(torch.randn(count, 9, 7))

    def forward(self, x: Tensor) -> Tensor:
        scores, ids = self.router(x).softmax(-1).topk(2)
        result: Tensor = getattr(self, self.way)(x, scores, ids)
        return result

    def by_index(self, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
        flat = torch.cat([ids[:, :1], ids[:, 1:]], 1).reshape(-1)
        hidden = (x.repeat_interleave(2, 0)[:, None] @ self.up[flat]).relu() @ self.down[flat]
        return (hidden.view(*ids.shape, 7) * scores[..., None]).sum(1)

    def by_mask(self, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
        chosen = torch.nn.functional.one_hot(ids, self.count).to(x.dtype)
        hidden = torch.einsum("bi,eio->beo", x, self.up).relu()
        return torch.einsum("beo,eoi,bke,bk->bi", hidden, self.down, chosen, scores)

    def by_scatter(self, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
        weight = torch.zeros_like(self.router(x)).scatter(1, ids, scores)
        return torch.einsum("be,eio,eoj,bi->bj", weight, self.up, self.down, x)

    def by_group(self, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
        order = ids.reshape(-1).argsort()
        each = torch.histc(ids.reshape(-1)[order].float(), self.count, 0, self.count - 1)
        ends = each.cumsum(0).to(torch.int32)
        rows = torch.ops.transformers.grouped_mm_fallback(x[order // 2], self.up, offs=ends).relu()
        rows = torch.ops.transformers.grouped_mm_fallback(rows, self.down, offs=ends)
        rows = rows[order.argsort()].view(*ids.shape, 7)
        return (rows * scores[..., None]).sum(1)


class Aligned(nn.Module):
    """Experts whose rows must have a multiple of 16 bytes."""

    def __init__(self, experts: int = 6, width: int = 24) -> None:
        super().__init__()
        self.router = nn.Linear(8, experts)
        self.up, self.down = nn.Parameter(torch.randn(experts, 8, width)), nn.Parameter(torch.randn(experts, width, 8))
        self.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        ids, order = self.router(x).argmax(-1).sort()
        ends = torch.histc(ids.float(), self.up.shape[0], 0, self.up.shape[0] - 1).cumsum(0).to(torch.int32)
        hidden = torch.nn.functional.grouped_mm(x[order], self.up, offs=ends).relu()
        return torch.nn.functional.grouped_mm(hidden, self.down, offs=ends)[order.argsort()]


def test_products_by_group_keep_their_rows_aligned() -> None:
    torch.manual_seed(0)
    model, smaller, x = Aligned(), Aligned(len(KEPT), 16), torch.randn(5, 8, dtype=torch.bfloat16)
    program = graphc.capture(model, (x,))
    axis, width = experts(program), next(a for a in graphc.find_axes(program) if ("up", 2) in a.members)
    inner = [i for i in range(24) if i % 3]
    with pytest.raises(SliceError, match="a multiple of 8"):
        graphc.slice(program, {width: inner[:12]})
    weights = {name: value[KEPT] for name, value in model.state_dict().items()}
    weights |= {"up": weights["up"][:, :, inner], "down": weights["down"][:, inner]}
    smaller.load_state_dict(weights)
    with torch.no_grad():
        assert torch.allclose(graphc.slice(program, {axis: KEPT, width: inner})(x), smaller(x), rtol=1e-2)


def experts(program: graphc.Program) -> Axis:
    return next(axis for axis in graphc.find_axes(program) if ("up", 0) in axis.members)


@pytest.mark.parametrize("way", ["by_index", "by_mask", "by_scatter", "by_group"])
def test_fewer_experts_are_the_model_that_never_had_the_others(way: str) -> None:
    if way == "by_group":
        pytest.importorskip("transformers.integrations.moe", reason="pip install 'graphc[transformers]'")
    torch.manual_seed(0)
    model, smaller, x = Experts(way), Experts(way, len(KEPT)), torch.randn(5, 7)
    program = graphc.capture(model, (x,))
    axis = experts(program)
    assert axis.pinned is None
    assert axis.mixed
    assert set(axis.members) == {("router.weight", 0), ("router.bias", 0), ("up", 0), ("down", 0)}
    smaller.load_state_dict({name: value[KEPT] for name, value in model.state_dict().items()})
    other = torch.randn(8, 7)
    with torch.no_grad():
        assert torch.allclose(graphc.slice(program, {axis: KEPT})(other), smaller(other), atol=1e-6)
        assert not torch.allclose(model(other), smaller(other), atol=1e-2)


def test_as_many_must_be_left_as_are_chosen() -> None:
    program = graphc.capture(Experts("by_index"), (torch.randn(5, 7),))
    with pytest.raises(SliceError, match="keep at least 2") as caught:
        graphc.slice(program, {experts(program): [3]})
    assert "topk" in caught.value.where


class Other(nn.Module):
    """Reads the numbers of experts in a way of its own."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.read, self.router, self.up = read, nn.Linear(7, 6), nn.Parameter(torch.randn(6, 7))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.router(x).argmax(-1)
        return self.up[ids], self.read(ids)


@pytest.mark.parametrize(
    "read",
    [
        lambda ids: ids,
        lambda ids: ids + 1,
        lambda ids: (ids == 3).float(),
        lambda ids: torch.nn.functional.one_hot(ids, 7),
        lambda ids: torch.histc(ids.float(), 3, 0, 5),
        lambda ids: torch.arange(6)[ids],
        lambda ids: torch.stack([ids, ids.new_zeros(5)]),
    ],
    ids=["given", "added to", "compared", "other classes", "wider bins", "a table", "joined with others"],
)
def test_numbers_that_are_read_otherwise_pin_the_experts(read: Callable[[Tensor], Tensor]) -> None:
    program = graphc.capture(Other(read), (torch.randn(5, 7),), dynamic={})
    assert next(axis for axis in graphc.find_axes(program) if ("up", 0) in axis.members).pinned is not None
