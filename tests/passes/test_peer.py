"""The same work as Torch-Pruning: where the definitions coincide, the same filters go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters
from graphc.passes.calibration import Calibration
from graphc.passes.importance import score
from torch import Tensor, nn

import graphc
from graphc.axes.axis import Axis
from graphc.coupling import analyze

tp = pytest.importorskip("torch_pruning", reason="pip install torch-pruning==1.6.1")
torchvision = pytest.importorskip("torchvision", reason="pip install torchvision")

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([3, 1, 4, 1])
CRITERIA = {
    "l1": tp.importance.MagnitudeImportance(p=1),
    "l2": tp.importance.MagnitudeImportance(p=2),
    "bn_scale": tp.importance.BNScaleImportance(),
    "lamp": tp.importance.LAMPImportance(),
    "taylor": tp.importance.TaylorImportance(),
    "fpgm": tp.importance.FPGMImportance(p=1),
}


def network(name: str) -> nn.Module:
    """Random weights for which the definitions coincide: no biases, positive weights, depthwise ones of no account."""
    torch.manual_seed(1)
    model: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=10).eval().double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(0.05 * torch.rand_like(module.weight))
                if getattr(module, "groups", 1) > 1:
                    module.weight.zero_()
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.2, 1.5)
    return model


def their_scores(model: nn.Module, importance: Any) -> dict[str, Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=X[:1])
    names = {module: name for name, module in model.named_modules()}
    last = list(model.modules())[-1]
    return {
        names[group[0].dep.target.module]: importance(group).double()
        for group in graph.get_all_groups(ignored_layers=[last])
    }


def norms(model: nn.Module, axis: Axis) -> list[Tensor]:
    """What batch norms add to the Taylor score; Torch-Pruning leaves them out."""
    parameters = dict(model.named_parameters())
    owned = [parameters[name] for name, _ in axis.members if name in parameters and parameters[name].dim() == 1]
    return [(p * p.grad).abs().detach() for p in owned if len(p) == axis.size]


@pytest.mark.parametrize(
    ("name", "importance"),
    [*(("resnet18", importance) for importance in CRITERIA), ("mobilenet_v2", "l1"), ("mobilenet_v2", "fpgm")],
)
def test_scores_are_the_same(name: str, importance: str) -> None:
    model = network(name)
    theirs = their_scores(model, CRITERIA[importance])
    analysis = analyze(graphc.capture(model, (X,)))
    free = [axis for axis in analysis.axes if axis.pinned is None]
    ours = score(analysis, free, importance, Calibration(lambda: [(X, Y)]))
    found = 0
    for axis, values in ours.items():
        layers = [alias.removesuffix(".out") for alias in [axis.name, *axis.aliases]]
        other = next(theirs[layer] for layer in layers if layer in theirs)
        same = values.square() if importance == "l2" else values
        if importance == "taylor":
            same = same - sum(norms(model, axis))
        if importance != "lamp":
            same, other = same / same.mean(), other / other.mean()
        assert torch.allclose(same, other.detach(), rtol=1e-4), axis.name
        half = axis.size // 2
        assert set(same.argsort()[:half].tolist()) == set(other.argsort()[:half].tolist())
        found += 1
    assert found == len(theirs) > 8


@pytest.mark.parametrize("importance", ["l1", "bn_scale", "lamp", "fpgm"])
def test_a_global_ranking_leaves_the_same_network(importance: str) -> None:
    model = network("resnet18")
    program = graphc.capture(model, (X,))
    prune = PruneFilters(pruning_ratio=0.5, ranking="global", importance=importance)
    ours = graphc.compile(program, passes=[prune], data={"calibration": [(X, Y)]}).program.tensors()
    nn.functional.cross_entropy(model(X), Y).backward()
    pruner = tp.pruner.MetaPruner(
        model, X[:1], CRITERIA[importance], global_pruning=True, pruning_ratio=0.5, ignored_layers=[model.fc]
    )
    pruner.step()
    theirs = {name: value for name, value in model.state_dict().items() if name in ours}
    assert {name: tuple(v.shape) for name, v in theirs.items()} == {n: tuple(ours[n].shape) for n in theirs}
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())
