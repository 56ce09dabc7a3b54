"""Discretisation against the reference: the chosen modules of the supernet with weight 1, all else absent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import Discretize, Finetune, PruneFilters, Quantize
from torch import Tensor, nn

import graphc
from benchmarks.supernets import NORMS, TABLES, WAYS, Edges, PartialCell, darts, discrete, reference
from graphc.errors import GraphError, RecipeError
from graphc.ir.edit import rebuild
from graphc.pipeline.base import Context

pytestmark = pytest.mark.filterwarnings(
    "ignore:A model attribute"
)  # torch, of alphas that are plain tensors as upstream


def discretize(program: graphc.Program, **options: Any) -> tuple[graphc.Program, dict[str, Any]]:
    done = graphc.compile(program, passes=[Discretize(**options)])
    return done.program, done.report["passes"][0]["facts"]


def apart(program: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], *shape: int) -> float:
    x = torch.randn(5, *shape)
    with torch.no_grad():
        return float((program(x) - expected(x)).abs().max())


def images(size: int = 8) -> tuple[Tensor]:
    return (torch.randn(4, 3, size, size),)


@pytest.fixture(scope="module")
def supernet() -> tuple[Any, graphc.Program]:
    net = darts()
    return net, graphc.capture(net, images())


@pytest.mark.parametrize("seed", range(4))
def test_darts_with_many_alphas(supernet: tuple[Any, graphc.Program], seed: int) -> None:
    net, program = copy.deepcopy(supernet[0]), supernet[1]
    generator = torch.Generator().manual_seed(seed)
    spread = (1e-3, 1, 1, 3)[seed]
    alphas = {name: torch.randn(getattr(net, name).shape, generator=generator) * spread for name in TABLES}
    for name, value in alphas.items():
        setattr(net, name, value)
    found, told = discretize(rebuild(program, tensors=alphas))
    assert told["genotype"] == str(net.genotype())
    assert apart(found, lambda x: reference(net, x), 3, 8, 8) == 0
    assert apart(found, net, 3, 8, 8) > 1e-3
    assert not set(TABLES) & set(found.tensors())
    assert sum(p.numel() for p in found.parameters()) < 0.5 * sum(p.numel() for p in program.parameters())


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("buffer", {"layers": 1, "steps": 3, "multiplier": 2}),
        ("parameter", {"layers": 3, "steps": 1, "multiplier": 1}),
    ],
)
def test_darts_of_other_depths(kind: str, sizes: dict[str, int]) -> None:
    net = darts(kind, **sizes)
    found, told = discretize(graphc.capture(net, images()))
    assert apart(found, lambda x: reference(net, x), 3, 8, 8) == 0
    genes = net.genotype()
    wanted = [one for reduction in net.reductions for one in (genes.reduce if reduction else genes.normal)]
    assert [(edge["operation"], edge["state"]) for row in told["choices"] for edge in row["edges"]] == wanted


def test_darts_in_training_mode(supernet: tuple[Any, graphc.Program]) -> None:
    net, program = copy.deepcopy(supernet[0]).train(), supernet[1]
    training = graphc.set_training(program, True)
    found = Discretize().run(training, Context(original=program))
    x = torch.randn(5, 3, 8, 8)
    assert float((found(x) - reference(net, x)).detach().abs().max()) < 1e-6
    state = net.state_dict()
    for name, value in found.tensors().items():
        assert torch.allclose(value, state[name], atol=1e-6), name
    plain = graphc.set_training(discretize(program)[0], True)
    assert [n.target for n in plain.graph.nodes] == [n.target for n in found.graph.nodes]


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_writing_a_mixture(way: str) -> None:
    net = Edges(WAYS[way]).eval()
    found, told = discretize(graphc.capture(net, images(7)))
    assert apart(found, net.reference, 3, 7, 7) == 0
    assert [len(row["edges"]) for row in told["choices"]] == [2]
    assert not [name for name in found.tensors() if "alpha" in name]


@pytest.mark.parametrize("norm", NORMS)
def test_ways_of_normalising(norm: str) -> None:
    net = Edges(norm=NORMS[norm]).eval()
    found, _ = discretize(graphc.capture(net, images(7)))
    assert apart(found, net.reference, 3, 7, 7) == 0


def test_a_cell_of_pc_darts() -> None:
    cell = PartialCell(8, stride=2, steps=2).eval()
    inputs = torch.randn(3, 8, 8, 8), torch.randn(3, 8, 8, 8)
    found, told = discretize(graphc.capture(cell, inputs))
    assert told["genotype"] == f"Genotype(reduce={cell.gene()}, reduce_concat=range(2, 4))"
    with torch.no_grad():
        assert torch.equal(found(*inputs), cell.reference(*inputs))
    assert not {"alphas", "betas"} & set(found.tensors())
    with pytest.raises(GraphError, match="no logit"):
        discretize(graphc.capture(cell, inputs), edge_score="logit")


class Node(nn.Module):
    """Sums edges of candidates that are multiples of the state."""

    def __init__(self, alphas: list[list[float]], factors: tuple[float, ...] = (0.0, 2.0, 3.0)) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.tensor(alphas))
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        weights = self.alphas.softmax(-1)
        return sum(w * (x * f) for row in weights for w, f in zip(row, self.factors))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3.0 + 2.0),
        ({"edges_per_node": None}, 3.0 + 2.0 + 2.0),
        ({"edges_per_node": 1}, 3.0),
        ({"exclude": []}, 0.0 + 3.0),
        ({"exclude": [], "edges_per_node": None}, 0.0 + 3.0 + 2.0),
        ({"edge_score": "logit"}, 2.0 + 2.0),
    ],
)
def test_options(options: dict[str, Any], expected: float) -> None:
    net = Node([[9.0, 5.0, 4.9], [0.0, 0.0, 1.0], [1.5, 2.0, 1.9]])
    found, _ = discretize(graphc.capture(net, images(2)), **options)
    assert apart(found, lambda x: expected * x, 3, 2, 2) < 1e-5


def test_candidates_are_excluded_by_name(supernet: tuple[Any, graphc.Program]) -> None:
    program = supernet[1]
    _, told = discretize(program, exclude=["none", "sep_conv_3x3", "skip_connect"])
    assert "sep_conv_3x3" not in told["genotype"]
    assert "skip_connect" not in told["genotype"]
    with pytest.raises(RecipeError, match="no candidate is called 'sep_conv_7x7'") as error:
        discretize(program, exclude=["sep_conv_7x7"])
    assert "sep_conv_5x5" in error.value.hint


def test_the_earlier_wins_among_equals() -> None:
    net = Node([[0.0, 1.0, 1.0]] * 3)
    _, told = discretize(graphc.capture(net, images(2)))
    assert [edge["state"] for edge in told["choices"][0]["edges"]] == [0, 1]
    assert apart(discretize(graphc.capture(net, images(2)))[0], lambda x: 4 * x, 3, 2, 2) < 1e-6


def test_nothing_is_mixed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(GraphError, match="no mixture of candidates") as error:
        discretize(graphc.capture(net, images()))
    assert "each multiplied by an entry of a softmax" in error.value.why
    assert "found no such distribution" in error.value.why


def test_all_candidates_are_excluded() -> None:
    with pytest.raises(GraphError, match="every candidate of an edge of alphas is excluded") as error:
        discretize(graphc.capture(Node([[0.0, 1.0]], (0.0, 0.0)), images()))
    assert "none" in error.value.why


class Maybe(nn.Module):
    """A layer that may be absent, behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.layer = nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 3, padding=1)
        self.alphas = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).relu()
        weights = self.alphas.softmax(0)
        return x + (weights[0] * (x * 0.0) + weights[1] * self.layer(x))


def test_a_single_mixture_beside_a_residual() -> None:
    net = Maybe().eval()
    program = graphc.capture(net, images())
    found, told = discretize(program)
    assert "genotype" not in told
    assert told["says"] == ["the model: conv_3x3"]
    assert apart(found, lambda x: (h := net.before(x).relu()) + net.layer(h), 3, 8, 8) == 0
    with pytest.raises(GraphError, match="no mixture of candidates"):
        discretize(found)
    net.alphas.data = -net.alphas.data
    found, told = discretize(graphc.capture(net, images()), exclude=[])
    assert told["says"] == ["the model: none"]
    assert apart(found, lambda x: net.before(x).relu(), 3, 8, 8) == 0


class Broadcast(nn.Module):
    """A candidate is one number a channel, which the sum spreads over the map."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.alphas.softmax(-1)
        return weights[0] * x.relu() + weights[1] * x.mean((2, 3), keepdim=True)


def test_what_is_chosen_has_another_shape() -> None:
    with pytest.raises(GraphError, match="does not sum to its shape") as error:
        discretize(graphc.capture(Broadcast(), images()))
    assert "8, 8]" in error.value.why
    assert "1, 1]" in error.value.why


class Penalty(Node):
    """Gives the entropy of its weights, too."""

    def forward(self, x: Tensor) -> Any:
        weights = self.alphas.softmax(-1)
        return super().forward(x), x.sum() * (weights * weights.log()).sum()


def test_weights_that_count_elsewhere() -> None:
    with pytest.raises(GraphError, match="count outside of the mixtures") as error:
        discretize(graphc.capture(Penalty([[0.0, 1.0, 2.0]]), images()))
    assert "log" in error.value.where


def test_weights_that_are_no_numbers() -> None:
    with pytest.raises(GraphError, match="not finite"):
        discretize(graphc.capture(Node([[0.0, float("nan"), 2.0]]), images()))


class Stored(Node):
    """Keeps the weights in the place of what they are computed from."""

    def __init__(self) -> None:
        super().__init__([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
        self.register_buffer("weights", self.alphas.detach().softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        return sum(w * (x * f) for row in self.weights for w, f in zip(row, self.factors))


def test_weights_that_are_stored() -> None:
    found, _ = discretize(graphc.capture(Stored(), images(2)))
    assert apart(found, lambda x: 5 * x, 3, 2, 2) < 1e-6


def test_a_discrete_network_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))) for _ in range(2)]
    passes = [
        Discretize(),
        Finetune(steps=2),
        PruneFilters(pruning_ratio=0.25),
        Quantize(scheme="W8A8"),
    ]
    data = {"train": batches, "calibration": batches}
    files = ["cell.onnx", "cell.pt2", "cell/"]
    program = graphc.capture(darts(layers=1, steps=1, multiplier=1), images())
    done = graphc.compile(program, passes=passes, data=data, emit=files, output_dir=tmp_path)
    assert {artifact.path.name for artifact in done.artifacts} == {"cell.onnx", "cell.pt2", "cell"}
    params = [step["params"] for step in done.report["passes"]]
    assert params[0] == params[1] > params[2]
    assert graphc.load(tmp_path / "cell.pt2")(batches[0][0]).shape == (8, 10)


def test_cells_are_used_as_they_are() -> None:
    cell = darts().cells[0]
    gene = [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("none", 2)]
    a, b = torch.randn(2, 12, 4, 4), torch.randn(2, 12, 4, 4)
    with torch.no_grad():
        first = cell.edges[0].candidates[4](cell.first(a)) + cell.second(b)
        second = cell.edges[2].candidates[1](cell.first(a))
        assert torch.equal(discrete(cell, a, b, gene), torch.cat([first, second], 1))
