"""Supernets in the manner of DARTS and PC-DARTS, and what the reference makes of them: chosen modules, summed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from examples.darts_space import PRIMITIVES, Cell, MixedOp, Network

Kind = str
TABLES = ("alphas_normal", "alphas_reduce")


def darts(kind: Kind = "tensor", seed: int = 0, spread: float = 1.0, **sizes: int) -> Network:
    """DARTS's network, whose alphas are plain tensors as its authors' are, or buffers, or parameters."""
    torch.manual_seed(seed)
    net = Network(**{"width": 4, "layers": 3, "steps": 2, "multiplier": 2, **sizes})
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    for name in TABLES:
        value = torch.randn(getattr(net, name).shape) * spread
        delattr(net, name)
        if kind == "buffer":
            net.register_buffer(name, value)
        else:
            setattr(net, name, value.requires_grad_() if kind == "tensor" else nn.Parameter(value))
    return net.eval()


def reference(net: Network, x: Tensor) -> Tensor:
    """The chosen operations with weight 1, all others and all other edges absent."""
    found = net.genotype()
    before = previous = net.stem(x)
    for cell, reduction in zip(net.cells, net.reductions):
        gene = found.reduce if reduction else found.normal
        before, previous = previous, discrete(cell, before, previous, gene)
    return net.classifier(previous.mean((2, 3)))


def discrete(cell: Cell, before: Tensor, previous: Tensor, gene: Sequence[tuple[str, int]]) -> Tensor:
    """A cell of a genotype, of the supernet's own modules."""
    states = [cell.first(before), cell.second(previous)]
    first = 0
    for node in range(cell.steps):
        picks = gene[2 * node : 2 * node + 2]
        chosen = [cell.edges[first + state].candidates[PRIMITIVES.index(name)](states[state]) for name, state in picks]
        first += len(states)
        states.append(sum(chosen))
    return torch.cat(states[-cell.multiplier :], dim=1)


class PartialOp(nn.Module):
    """Of PC-DARTS: a quarter of the channels is mixed, the others pass, and all are shuffled."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.mixed = MixedOp(width // 4, stride)
        self.pool = nn.MaxPool2d(2, 2) if stride == 2 else nn.Identity()

    def around(self, x: Tensor, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """The quarter through ``inner``, the rest, shuffled."""
        quarter = x.shape[1] // 4
        whole = torch.cat([inner(x[:, :quarter]), self.pool(x[:, quarter:])], dim=1)
        batch, channels, height, width = whole.shape
        return whole.view(batch, 4, channels // 4, height, width).transpose(1, 2).reshape(whole.shape)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """A state and the weights of the candidates."""
        return self.around(x, lambda part: self.mixed(part, weights))


class PartialCell(nn.Module):
    """Of PC-DARTS: edges have weights of their own, normalised for each node."""

    def __init__(self, width: int, stride: int, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.edges = nn.ModuleList(
            PartialOp(width, stride if state < 2 else 1) for node in range(steps) for state in range(2 + node)
        )
        self.alphas = torch.randn(len(self.edges), len(PRIMITIVES))
        self.betas = torch.randn(len(self.edges))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Of candidates ``[edges, candidates]``, and of edges ``[edges]``."""
        starts = [node * (node + 3) // 2 for node in range(self.steps + 1)]
        parts = [self.betas[a:b].softmax(-1) for a, b in pairwise(starts)]
        return self.alphas.softmax(-1), functools.reduce(lambda a, b: torch.cat([a, b], 0), parts)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two states to the nodes side by side."""
        candidates, edges = self.weights()
        states, first = [a, b], 0
        for _ in range(self.steps):
            rows = range(first, first + len(states))
            first += len(states)
            states.append(sum(edges[row] * self.edges[row](s, candidates[row]) for row, s in zip(rows, states)))
        return torch.cat(states[2:], dim=1)

    def gene(self) -> list[tuple[str, int]]:
        """Upstream's: edges by the greatest product that is not none's."""
        candidates, edges = self.weights()
        gene, first = [], 0
        for node in range(self.steps):
            table = candidates[first : first + 2 + node, 1:]
            scores = table.amax(1) * edges[first : first + 2 + node]
            first += 2 + node
            order = sorted(range(2 + node), key=lambda state: -float(scores[state]))
            gene += [(PRIMITIVES[1 + int(table[state].argmax())], state) for state in order[:2]]
        return gene

    def reference(self, a: Tensor, b: Tensor) -> Tensor:
        """The chosen candidates between partial channels, edges of weight 1."""
        states, first = [a, b], 0
        gene = self.gene()
        for node in range(self.steps):
            chosen = []
            for name, state in gene[2 * node : 2 * node + 2]:
                edge = self.edges[first + state]
                chosen.append(edge.around(states[state], edge.mixed.candidates[PRIMITIVES.index(name)]))
            first += len(states)
            states.append(sum(chosen))
        return torch.cat(states[2:], dim=1)


Mix = Callable[[Tensor, list[Tensor]], Tensor]


def in_place(w: Tensor, values: list[Tensor]) -> Tensor:
    """The sum of a loop that adds in place."""
    total = w[0] * values[0]
    for i in range(1, len(values)):
        total += w[i] * values[i]
    return total


def from_zero(w: Tensor, values: list[Tensor]) -> Tensor:
    """The sum of a loop that starts from a tensor of zeros."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(w, values):
        total = total + weight * value
    return total


def cat_and_view(w: Tensor, values: list[Tensor]) -> Tensor:
    """Along channels, then a dim of their own."""
    b, c, *size = values[0].shape
    return (torch.cat(values, 1).view(b, len(values), c, *size) * w.view(1, -1, 1, 1, 1)).sum(1)


WAYS: dict[str, Mix] = {
    "zip": lambda w, values: sum(a * v for a, v in zip(w, values)),
    "index": lambda w, values: sum(v * w[i] for i, v in enumerate(values)),
    "in place": in_place,
    "from zero": from_zero,
    "stack and sum": lambda w, values: (torch.stack(values) * w.view(-1, 1, 1, 1, 1)).sum(0),
    "stack last": lambda w, values: (torch.stack(values, -1) * w).sum(-1),
    "stack of products": lambda w, values: torch.stack([a * v for a, v in zip(w.unbind(), values)], 1).sum(1),
    "cat and view": cat_and_view,
    "einsum": lambda w, values: torch.einsum("k,k...->...", w, torch.stack(values)),
    "einsum of pairs": lambda w, values: sum(torch.einsum(",bchw->bchw", w[i], v) for i, v in enumerate(values)),
    "tensordot": lambda w, values: torch.tensordot(torch.stack(values, 1), w, dims=([1], [0])),
    "matmul": lambda w, values: (w @ torch.stack(values).flatten(1)).view_as(values[0]),
    "bmm": lambda w, values: torch.bmm(w[None, None], torch.stack(values).flatten(1)[None]).reshape(values[0].shape),
    "reduce": lambda w, values: functools.reduce(torch.add, [torch.mul(v, a) for a, v in zip(w.split(1), values)]),
    "addcmul": lambda w, values: functools.reduce(lambda t, i: t.addcmul(values[i], w[i]), (1, 2, 3), w[0] * values[0]),
    "expand": lambda w, values: sum(w[i].expand_as(v) * v for i, v in enumerate(values)),
}
"""How a weighted sum can be written."""

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda a: a.softmax(-1),
    "temperature": lambda a: (a / 0.5).softmax(-1),
    "by hand": lambda a: a.exp() / a.exp().sum(),
    "from logs": lambda a: a.log_softmax(-1).exp(),
    "sigmoid": lambda a: a.sigmoid(),
    "float64": lambda a: torch.nn.functional.softmax(a[None], 1, dtype=torch.float64)[0].float(),
}


class Edge(nn.Module):
    """Four candidates, and architecture parameters of its own."""

    def __init__(self, mix: Mix, norm: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.mix, self.norm = mix, norm
        wide = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 5, padding=2))
        self.ops = nn.ModuleList([nn.Identity(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(width, width, 3, padding=1), wide])
        self.alpha = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        """The mixture."""
        return self.mix(self.norm(self.alpha), [op(x) for op in self.ops])

    def best(self, x: Tensor) -> tuple[float, Tensor]:
        """The greatest weight, and its candidate's value."""
        weight, place = self.norm(self.alpha).max(0)
        return float(weight), self.ops[int(place)](x)


class Edges(nn.Module):
    """A node of three edges, each with parameters of its own."""

    def __init__(self, mix: Mix = WAYS["zip"], norm: Callable[[Tensor], Tensor] = NORMS["softmax"]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(Edge(mix, norm, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 3, height, width]`` to the same."""
        return self.edges[0](x) + self.edges[1](2 * x) + self.edges[2](x.relu())

    def reference(self, x: Tensor) -> Tensor:
        """The two best edges."""
        found = [self.edges[0].best(x), self.edges[1].best(2 * x), self.edges[2].best(x.relu())]
        one, two, _ = sorted(found, key=lambda pair: -pair[0])
        return one[1] + two[1]
