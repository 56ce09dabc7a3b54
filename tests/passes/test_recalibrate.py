from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, Recalibrate
from torch.optim.swa_utils import update_bn

import graphc
from graphc.errors import GraphError, RecipeError
from tests import models


def images(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [2 * torch.randn(n, 3, 16, 16, generator=generator) + 1 for n in sizes]


def module() -> models.Residual:
    torch.manual_seed(0)
    return models.randomise(models.Residual()).eval()


@pytest.mark.parametrize("pruned", [False, True])
def test_one_batch_gives_the_statistics_of_training(pruned: bool) -> None:
    model = module()
    program = graphc.capture(model, (torch.randn(3, 3, 16, 16),))
    if pruned:
        program = graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.5)]).program
    done = graphc.compile(program, passes=[Recalibrate()], data={"calibration": images(9)}).program
    reference = graphc.to_module(program, model)
    for norm in (m for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
    update_bn(images(9), reference.train())
    tensors = done.tensors()
    for name, value in reference.state_dict().items():
        if "running" in name:
            assert torch.allclose(tensors[name], value, rtol=1e-4, atol=1e-5), name


def test_batches_count_by_their_size() -> None:
    program = graphc.capture(module(), (torch.randn(3, 3, 16, 16),))
    first = "norm.running_mean"  # what enters the first norm does not depend on other statistics
    whole, parts = (
        graphc.compile(program, passes=[Recalibrate()], data={"calibration": data}).program.tensors()
        for data in ([torch.cat(images(9, 4))], images(9, 4))
    )
    assert torch.allclose(whole[first], parts[first], atol=1e-6)
    variances = [t["norm.running_var"] for t in (whole, parts)]
    assert torch.allclose(*variances, rtol=1e-5)


def test_the_original_keeps_its_statistics() -> None:
    model = module()
    before = copy.deepcopy(model.state_dict())
    program = graphc.capture(model, (torch.randn(3, 3, 16, 16),))
    graphc.compile(program, passes=[Recalibrate()], data={"calibration": images(4)})
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (models.Residual(), {}, "needs data called 'calibration'"),
        (torch.nn.Conv2d(3, 4, 1), {"calibration": images(3)}, "has no batch norm"),
        (models.Residual(), {"calibration": [torch.full((3, 3, 16, 16), torch.inf)]}, "statistics are not finite"),
    ],
)
def test_what_cannot_be_done(model: torch.nn.Module, data: Any, words: str) -> None:
    with pytest.raises((GraphError, RecipeError), match=words):
        graphc.compile(model, (torch.randn(3, 3, 16, 16),), passes=[Recalibrate()], data=data)
