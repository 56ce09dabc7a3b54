from __future__ import annotations

import torch
from graphc.passes.importance import score

import graphc
from graphc.coupling import analyze


def two_layers() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 5))


def test_scores_add_up_every_member() -> None:
    model = two_layers()
    analysis = analyze(graphc.capture(model, (torch.randn(6, 3),)))
    axis = next(a for a in analysis.axes if a.name == "0.out")
    first, last = model[0], model[2]
    together = torch.cat([first.weight, first.bias[:, None], last.weight.T], dim=1).double()
    assert torch.allclose(score(analysis, [axis], "l1")[axis], together.abs().sum(1))
    assert torch.allclose(score(analysis, [axis], "l2")[axis], together.norm(dim=1))


class Heads(torch.nn.Module):
    """The unit of an axis is spread over a product: heads of width 5."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(6, 3 * 4 * 5, bias=False)
        self.out = torch.nn.Linear(4 * 5, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, _ = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, 4, 5).permute(2, 0, 3, 1, 4).unbind(0)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, s, 20))


def test_scores_of_heads_gather_their_columns() -> None:
    model = Heads()
    analysis = analyze(graphc.capture(model, (torch.randn(3, 7, 6),)))
    axis = next(a for a in analysis.axes if "heads" in a.roles and a.pinned is None)
    qkv = model.qkv.weight.view(3, 4, 5, 6).permute(1, 0, 2, 3).reshape(4, -1)
    out = model.out.weight.view(6, 4, 5).permute(1, 0, 2).reshape(4, -1)
    expected = torch.cat([qkv, out], 1).double().abs().sum(1)
    assert torch.allclose(score(analysis, [axis], "l1")[axis], expected)


def test_the_least_important_unit_goes_first() -> None:
    model = two_layers()
    with torch.no_grad():
        model[0].weight[2] = model[0].bias[2] = 0
        model[2].weight[:, 2] = 0
    analysis = analyze(graphc.capture(model, (torch.randn(6, 3),)))
    axis = next(a for a in analysis.axes if a.name == "0.out")
    assert int(score(analysis, [axis], "l2")[axis].argmin()) == 2
