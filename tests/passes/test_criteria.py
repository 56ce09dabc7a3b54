"""Every criterion against a computation of its own, on the module itself, by hooks and autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphc.passes.calibration import Calibration
from graphc.passes.importance import CRITERIA, score
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from graphc.coupling import analyze
from graphc.errors import GraphError

UNITS = 6


class ConvNet(nn.Module):
    """Convolution, batch norm, relu, convolution, classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, UNITS, 3, padding=1)
        self.norm = nn.BatchNorm2d(UNITS)
        self.second = nn.Conv2d(UNITS, 5, 3)
        for p in self.parameters():
            nn.init.normal_(p)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.norm(self.first(x)))).mean((2, 3))

    def rows(self, value: Callable[[nn.Parameter], Tensor]) -> list[Tensor]:
        """A function of each parameter that has the first layer's filters, as [units, rest]."""
        first, second = self.first, self.second
        made = [value(p).detach().double() for p in (first.weight, first.bias, self.norm.weight, self.norm.bias)]
        return [t.flatten(1) if t.dim() > 1 else t[:, None] for t in made] + [
            value(second.weight).detach().double().transpose(0, 1).flatten(1)
        ]


@pytest.fixture
def net() -> ConvNet:
    torch.manual_seed(3)
    return ConvNet().eval()


def data(sizes: tuple[int, ...] = (4, 3)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(n, 3, 8, 8, generator=generator), torch.randint(0, 5, (n,), generator=generator)) for n in sizes
    ]


def scored(net: nn.Module, name: str, batches: Any = None, axis_name: str = "first.out", **options: Any) -> Tensor:
    example = (batches or data())[0][0]
    analysis = analyze(graphc.capture(net, (example,)))
    axis = next(a for a in analysis.axes if a.name == axis_name)
    calibration = Calibration(lambda: batches or data(), seed=7)
    return score(analysis, [axis], name, calibration, **options)[axis]


def l1(net: ConvNet) -> Tensor:
    return torch.cat(net.rows(lambda p: p), 1).abs().sum(1)


def l2(net: ConvNet) -> Tensor:
    return torch.linalg.vector_norm(torch.cat(net.rows(lambda p: p), 1), dim=1)


def bn_scale(net: ConvNet) -> Tensor:
    return net.norm.weight.detach().abs().double()


def fpgm(net: ConvNet) -> Tensor:
    total = torch.zeros(UNITS, dtype=torch.float64)
    for rows in net.rows(lambda p: p):
        if rows.shape[1] > 1:
            for u in range(UNITS):
                total[u] += sum(((rows[u] - rows[v]) ** 2).sum() ** 0.5 for v in range(UNITS))
    return total


def lamp(net: ConvNet) -> Tensor:
    squares = torch.cat(net.rows(lambda p: p), 1).square().sum(1)
    return torch.stack([s / squares[squares >= s].sum() for s in squares])


def grads(net: ConvNet, batches: list[tuple[Tensor, Tensor]]) -> list[list[Tensor]]:
    found = []
    for x, y in batches:
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        found.append([g.clone() for g in net.rows(lambda p: p.grad)])
    return found


def taylor(net: ConvNet) -> Tensor:
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    (rows,) = grads(net, [(x, y)])
    return sum((w * g).abs().sum(1) for w, g in zip(net.rows(lambda p: p), rows, strict=True))


def fisher(net: ConvNet) -> Tensor:
    batches = grads(net, data())
    weights = net.rows(lambda p: p)
    return sum(sum(0.5 * (w * g).square().sum(1) for w, g in zip(weights, b, strict=True)) for b in batches) / 2


def read(net: ConvNet, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = net.second.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(x)
    handle.remove()
    return seen[0].detach()


def activation(net: ConvNet) -> Tensor:
    return torch.cat([read(net, x) for x, _ in data()]).double().abs().mean((0, 2, 3))


def gate(net: ConvNet) -> Tensor:
    """The gradient by an explicit gate of ones on each unit, sample by sample."""
    scores = []
    for x, y in data():
        for i in range(len(x)):
            ones = torch.ones(1, UNITS, 1, 1, requires_grad=True)
            out = net.second(read(net, x[i : i + 1]) * ones).mean((2, 3))
            (gradient,) = torch.autograd.grad(F.cross_entropy(out, y[i : i + 1]), ones)
            scores.append(gradient.flatten().abs())
    return torch.stack(scores).double().mean(0)


INDEPENDENT = {f.__name__: f for f in (l1, l2, bn_scale, fpgm, lamp, taylor, fisher, activation, gate)}


def test_every_criterion_is_tested() -> None:
    assert set(INDEPENDENT) | {"random", "attention_variance"} == set(CRITERIA)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_criterion_is_what_its_paper_says(net: ConvNet, name: str) -> None:
    expected = INDEPENDENT[name](net)
    assert torch.allclose(scored(net, name), expected, rtol=1e-4, atol=1e-9)
    assert expected.max() > 1.01 * expected.min()


@pytest.mark.parametrize("name", INDEPENDENT)
def test_scores_follow_their_units(net: ConvNet, name: str) -> None:
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(1))
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in (moved.first.weight, moved.first.bias, *moved.norm.state_dict().values()):
            if tensor.dim():
                tensor.copy_(tensor[order])
        moved.second.weight.copy_(moved.second.weight[:, order])
    assert torch.allclose(scored(moved, name), scored(net, name)[order], rtol=1e-3)


class Attention(nn.Module):
    """Four heads of width 3, fused or not, and a classifier."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v = (nn.Linear(10, 12) for _ in range(3))
        self.out = nn.Linear(12, 10)
        self.head = nn.Linear(10, 5)
        for p in self.parameters():
            nn.init.normal_(p)

    def weights(self, x: Tensor) -> Tensor:
        q, k = (layer(x).view(*x.shape[:2], 4, 3).transpose(1, 2) for layer in (self.q, self.k))
        return (q @ k.transpose(2, 3) / 3**0.5).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(*x.shape[:2], 4, 3).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v) if self.fused else self.weights(x) @ v
        return self.head(self.out(attended.transpose(1, 2).flatten(2)).mean(1))


def tokens() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(n, 7, 10, generator=generator), torch.randint(0, 5, (n,))) for n in (4, 3)]


@pytest.mark.parametrize("fused", [True, False])
def test_attention_variance(fused: bool) -> None:
    torch.manual_seed(0)
    net = Attention(fused).eval()
    weights = torch.cat([net.weights(x) for x, _ in tokens()]).detach().double()
    expected = weights.var((0, 2, 3), correction=0)
    name = next(a.name for a in graphc.find_axes(graphc.capture(net, (tokens()[0][0],))) if "heads" in a.roles)
    assert torch.allclose(scored(net, "attention_variance", tokens(), name), expected, rtol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_gate_of_heads_is_the_gradient_by_a_head_mask(fused: bool) -> None:
    """Michel et al.: |d loss / d mask| of each head, mean over samples."""
    torch.manual_seed(0)
    net = Attention(fused).eval()
    name = next(a.name for a in graphc.find_axes(graphc.capture(net, (tokens()[0][0],))) if "heads" in a.roles)
    found = []
    batches = tokens()
    for x, y in batches:
        for i in range(len(x)):
            one = x[i : i + 1]
            mask = torch.ones(1, 4, 1, 1, requires_grad=True)
            v = net.v(one).view(1, 7, 4, 3).transpose(1, 2)
            attended = (net.weights(one) @ v) * mask
            out = net.head(net.out(attended.transpose(1, 2).flatten(2)).mean(1))
            found.append(torch.autograd.grad(F.cross_entropy(out, y[i : i + 1]), mask)[0].flatten().abs())
    expected = torch.stack(found).double().mean(0)
    assert torch.allclose(scored(net, "gate", batches, name), expected, rtol=1e-4)


def test_random_is_the_same_for_a_seed(net: ConvNet) -> None:
    first = scored(net, "random")
    assert torch.equal(first, scored(net, "random"))
    assert 0 <= first.min() < first.max() <= 1


def test_reductions_and_normalizations(net: ConvNet) -> None:
    parts = torch.stack([rows.abs().sum(1) for rows in net.rows(lambda p: p)])
    assert torch.allclose(scored(net, "l1", reduction="mean"), parts.mean(0), rtol=1e-5)
    assert torch.allclose(scored(net, "l1", reduction="max"), parts.amax(0), rtol=1e-5)
    whole = parts.sum(0)
    assert torch.allclose(scored(net, "l1", normalization="mean"), whole / whole.mean(), rtol=1e-5)
    assert torch.allclose(scored(net, "l1", normalization="max"), whole / whole.max(), rtol=1e-5)
    expected = (whole - whole.mean()) / whole.std(correction=0)
    assert torch.allclose(scored(net, "l1", normalization="std"), expected, rtol=1e-4)


def test_only_so_many_samples_are_taken(net: ConvNet) -> None:
    analysis = analyze(graphc.capture(net, (data()[0][0],)))
    axis = next(a for a in analysis.axes if a.name == "first.out")
    found = score(analysis, [axis], "activation", Calibration(data, samples=5))[axis]
    values = torch.cat([read(net, x) for x, _ in data()])[:5]
    assert torch.allclose(found, values.double().abs().mean((0, 2, 3)), rtol=1e-5)


def test_no_gradient_is_left_behind(net: ConvNet) -> None:
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    scored(net, "taylor")
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize(
    ("name", "batches", "words"),
    [
        ("taylor", [(torch.randn(3, 3, 8, 8),)], "taylor needs labels"),
        ("activation", [], "the data is empty"),
        ("activation", [torch.randn(3, 3, 8, 9)], r"does not fit the input x.*float32\[3, 3, 8, 9\]"),
        ("activation", [(torch.randn(3, 3, 8, 8), 1, 2)], "a batch cannot be a tuple of 3"),
        ("taylor", [(torch.full((3, 3, 8, 8), torch.nan), torch.tensor([0, 1, 2]))], "is not finite"),
        ("taylor", [(torch.randn(3, 3, 8, 8), torch.zeros(3, 9))], "labels do not fit the outputs"),
    ],
)
def test_data_that_does_not_fit(net: ConvNet, name: str, batches: Any, words: str) -> None:
    analysis = analyze(graphc.capture(net, (torch.randn(4, 3, 8, 8),)))
    axis = next(a for a in analysis.axes if a.name == "first.out")
    with pytest.raises(GraphError, match=f"(?s){words}"):
        score(analysis, [axis], name, Calibration(lambda: batches))


def two_numbers(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs[0, :2]


def without_weights(outputs: Tensor, labels: Tensor) -> Tensor:
    return labels.float().mean()


@pytest.mark.parametrize("name", ["taylor", "gate"])
@pytest.mark.parametrize(
    ("loss", "words"), [("two_numbers", "must give a tensor of one number"), ("without_weights", "no parameter")]
)
def test_losses_that_say_nothing_of_weights(net: ConvNet, name: str, loss: str, words: str) -> None:
    analysis = analyze(graphc.capture(net, (data()[0][0],)))
    axis = next(a for a in analysis.axes if a.name == "first.out")
    with pytest.raises(GraphError, match=words):
        score(analysis, [axis], name, Calibration(data, loss=f"{__name__}:{loss}"))


def test_a_criterion_that_says_nothing_of_an_axis() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    with pytest.raises(GraphError, match=r"'bn_scale' says nothing of the axis '0.out'"):
        scored(net, "bn_scale", axis_name="0.out")
