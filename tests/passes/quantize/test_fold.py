from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graphc.passes.quantize.fold import fold_batch_norms
from torch import Tensor, nn
from torch.nn.utils import prune

import graphc
from graphc.ir.edit import set_training
from graphc.ir.masks import find_masks
from tests import models

BATCH_NORM = torch.ops.aten.batch_norm.default


def norms(program: graphc.Program) -> int:
    return sum(node.target is BATCH_NORM for node in program.graph.nodes)


def capture(model: nn.Module, *shape: int) -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(models.randomise(model).eval(), (torch.randn(shape),))


def check(program: graphc.Program, left: int) -> graphc.Program:
    """Fold, compare at other inputs, count the norms that stay, and see that the original was left alone."""
    before = {name: tensor.clone() for name, tensor in program.tensors().items()}
    done = fold_batch_norms(program)
    x = torch.randn(program.example()[0][0].shape)
    with torch.no_grad():
        expected, found = program(x), done(x)
    scale = float(expected.abs().max())
    assert scale > 1e-3
    assert float((found - expected).abs().max()) <= 1e-5 * scale
    assert norms(program) > norms(done) == left
    assert all(torch.equal(before[name], tensor) for name, tensor in program.tensors().items())
    return done


TORCHVISION = {
    "resnet18": 0,
    "mobilenet_v2": 0,
    "mobilenet_v3_small": 0,
    "shufflenet_v2_x0_5": 0,
    "regnet_y_400mf": 0,
    "efficientnet_b0": 0,
    "densenet121": 62,
}
"""Models, and how many norms stay: those of a DenseNet that a relu and then a padded convolution follow."""


@pytest.mark.parametrize("name", TORCHVISION)
def test_real_models(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    check(capture(getattr(torchvision.models, name)(num_classes=7), 2, 3, 40, 40), TORCHVISION[name])


def test_a_timm_model() -> None:
    timm = pytest.importorskip("timm")
    check(capture(timm.create_model("tf_efficientnet_lite0", num_classes=7), 2, 3, 40, 40), 0)


class Chain(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: Chain(nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), (2, 4, 9)),
    "3d": (lambda: Chain(nn.Conv3d(4, 6, 3, padding="same"), nn.BatchNorm3d(6)), (2, 4, 5, 6, 7)),
    "linear": (lambda: Chain(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False)), (5, 4)),
    "transposed": (lambda: Chain(nn.ConvTranspose2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (2, 4, 5, 6)),
    "transposed, grouped": (lambda: Chain(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6)), (2, 4, 5, 6)),
    "transposed, 1d": (lambda: Chain(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), (2, 4, 5)),
    "before": (lambda: Chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False)), (2, 4, 5, 6)),
    "before, grouped": (lambda: Chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)), (2, 4, 5, 6)),
    "before, linear": (lambda: Chain(nn.BatchNorm1d(4), nn.Linear(4, 6)), (3, 4)),
    "both": (lambda: Chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)), (2, 4, 5, 6)),
    "both, no bias": (
        lambda: Chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)),
        (2, 4, 5, 6),
    ),
    "twice": (lambda: Chain(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), (2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_kinds_of_layers(name: str) -> None:
    build, shape = CHAINS[name]
    check(capture(build(), *shape), 0)


KEPT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "padding": (lambda: Chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)), (2, 4, 5, 6)),
    "another dim": (lambda: Chain(nn.Linear(4, 6), nn.BatchNorm1d(5)), (2, 5, 4)),
    "own statistics": (lambda: Chain(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)), (2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", KEPT)
def test_norms_that_cannot_be_folded_stay(name: str) -> None:
    build, shape = KEPT[name]
    program = capture(build(), *shape)
    done = fold_batch_norms(program)
    assert norms(done) == 1
    assert torch.equal(done(*program.example()[0]), program(*program.example()[0]))


def test_norms_in_training_stay() -> None:
    program = set_training(models.residual(), True)
    assert norms(fold_batch_norms(program)) == norms(program) == 2


class Tied(nn.Module):
    """One convolution used twice, and one whose result is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(4, 4, 1)
        self.read = nn.Conv2d(4, 4, 1)
        self.first, self.second, self.third = (nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.read(self.second(self.twice(self.first(self.twice(x)))).relu())
        return self.third(y) + y


def test_what_others_read_is_left_alone() -> None:
    program = capture(Tied(), 2, 4, 5, 6)
    done = fold_batch_norms(program)
    assert norms(done) == 3
    assert torch.equal(done(*program.example()[0]), program(*program.example()[0]))


class SharedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)
        self.right.bias = self.left.bias
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.left(x)) * self.right(x)


def test_a_shared_bias_stays_with_the_other_and_names_are_kept() -> None:
    done = check(capture(SharedBias(), 2, 4, 5, 6), 0)
    assert set(done.tensors()) == {"left.weight", "left.bias", "left.bias_2", "right.weight"}


def test_a_new_bias_is_named_after_its_module() -> None:
    names = set(check(models.residual(), 0).tensors())
    assert {"stem.weight", "stem.bias", "conv1.weight", "conv1.bias"} <= names
    assert not any("norm" in name for name in names)


@pytest.mark.parametrize("before", [False, True])
def test_masks_stay(before: bool) -> None:
    conv, norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(4 if before else 6)
    prune.l1_unstructured(conv, "weight", amount=0.5)
    program = capture(Chain(norm, conv) if before else Chain(conv, norm), 2, 4, 5, 6)
    done = check(program, 0)
    assert find_masks(done) == find_masks(program) != []
