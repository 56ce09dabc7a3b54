"""Kernels cut to their middle: a convolution equals itself with the outer ring masked, or says why it cannot be cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphc.passes import SliceElastic
from graphc.passes.elastic.kernels import find_kernels, slice_kernels, smaller
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from benchmarks.kernels import good, masked, prove
from graphc.errors import GraphError, RecipeError
from tests import models

CONVS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "1d": (nn.Conv1d(4, 6, 9, padding=4), (2, 4, 21), 3),
    "2d": (nn.Conv2d(4, 6, 7, padding=3), (2, 4, 11, 13), 5),
    "3d": (nn.Conv3d(2, 3, 5, padding=2, bias=False), (2, 2, 6, 7, 8), 3),
    "stride": (nn.Conv2d(4, 6, 7, stride=2, padding=3), (2, 4, 16, 13), 3),
    "more padding than it needs": (nn.Conv2d(4, 6, 5, padding=4), (2, 4, 11, 13), 3),
    "dilation": (nn.Conv2d(4, 6, 5, padding=6, dilation=3), (2, 4, 17, 13), 3),
    "groups": (nn.Conv2d(4, 6, 5, padding=2, groups=2), (2, 4, 11, 13), 1),
    "depthwise": (nn.Conv2d(4, 8, 5, padding=2, groups=4), (2, 4, 11, 13), 3),
    "same": (nn.Conv2d(4, 6, 6, padding="same"), (2, 4, 11, 13), 4),
    "not square": (nn.Conv2d(4, 6, (7, 3), padding=(3, 1)), (2, 4, 11, 13), 5),
    "one way": (nn.Conv2d(4, 6, (1, 7), padding=(0, 3)), (2, 4, 11, 13), 3),
    "transposed": (nn.ConvTranspose2d(4, 6, 6, stride=2, padding=2), (2, 4, 5, 7), 4),
    "transposed with dilation": (nn.ConvTranspose1d(4, 6, 5, padding=4, dilation=2), (2, 4, 9), 3),
}


@pytest.mark.parametrize("case", CONVS)
def test_a_cut_kernel_is_the_kernel_with_its_ring_masked(case: str) -> None:
    conv, shape, size = CONVS[case]
    torch.manual_seed(0)
    program = graphc.capture(models.randomise(conv.eval()), (torch.randn(shape),))
    cut = slice_kernels(program, {"weight": size})
    x = torch.randn(3, *shape[1:])
    torch.testing.assert_close(cut(x), masked(program, {"weight": size})(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(cut(x), program(x), atol=1e-2)
    assert max(cut.tensors()["weight"].shape[2:]) == size


def test_a_real_network_equals_itself_with_masked_kernels() -> None:
    pytest.importorskip("torchvision", reason="pip install 'graphc[vision]'")
    result = prove("mobilenet_v3_small", 3, pixels=32)
    assert good(result), result
    assert result.kernels == 8


class Odd(nn.Module):
    """Kernels that cannot be cut, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, stride=4)
        self.valid = nn.Conv2d(4, 4, 3)
        self.scaled = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.shared = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.valid(self.patches(x)), 2 * self.scaled.weight, padding=1)
        return self.shared(x) * self.shared.weight.mean()


@pytest.mark.parametrize(
    ("weight", "size", "said"),
    [
        ("patches", 3, "as wide on one side as on the other"),
        ("patches", 2, "which is too little"),
        ("valid", 1, "which is too little"),
        ("shared", 1, "reads its weight too"),
        ("valid", 5, "its kernel is 3x3"),
        ("nothing", 3, "no convolution has a kernel"),
    ],
)
def test_what_cannot_be_cut_says_why(weight: str, size: int, said: str) -> None:
    program = graphc.capture(models.seeded(Odd), (torch.randn(2, 3, 28, 32),))
    with pytest.raises(GraphError, match=said):
        slice_kernels(program, {f"{weight}.weight": size})


def test_a_kernel_that_is_computed_is_refused_by_the_pass() -> None:
    pruned = graphc.compile(models.residual(), passes=[masks()]).program
    with pytest.raises(RecipeError, match="the kernel of conv1 cannot be 1"):
        SliceElastic(kernel={"conv1": 1}).requires(pruned)
    why = find_kernels(pruned)["conv1.weight"].misfit(1)
    assert "slice before weights are masked" in why


def masks() -> Any:
    from graphc.passes import Sparsify

    return Sparsify(sparsity=0.5)


def test_matrices_go_from_size_to_size() -> None:
    torch.manual_seed(0)
    weight, to5, to3 = torch.randn(4, 1, 7, 7), torch.randn(25, 25), torch.randn(9, 9)
    five = (weight[:, :, 1:6, 1:6].reshape(4, 25) @ to5.T).view(4, 1, 5, 5)
    three = (five[:, :, 1:4, 1:4].reshape(4, 9) @ to3.T).view(4, 1, 3, 3)
    torch.testing.assert_close(smaller(weight, (5, 5), {5: to5, 3: to3}), five)
    torch.testing.assert_close(smaller(weight, (3, 3), {5: to5, 3: to3}), three)
    torch.testing.assert_close(smaller(weight, (3, 3), {}), weight[:, :, 2:5, 2:5])


class Doubled(nn.Module):
    """Two matrices for one size; only names tell where they start."""

    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 7, padding=3)
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.eye(9)))
        self.register_parameter("7to5", nn.Parameter(torch.eye(25)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_of_two_matrices_for_one_size_the_name_decides() -> None:
    program = graphc.capture(Doubled(("5to3", "7to3")).eval(), (torch.randn(2, 3, 9, 9),))
    assert find_kernels(program)["conv.weight"].matrices == {3: "5to3", 5: "7to5"}
    program = graphc.capture(Doubled(("a", "b")).eval(), (torch.randn(2, 3, 9, 9),))
    with pytest.raises(GraphError, match="several matrices make a kernel of 3"):
        find_kernels(program)
