"""progressive-shrinking: its steps are those of the sub-networks, its phases come in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from graphc.passes import Finetune, Recalibrate
from graphc.passes.during import Actions, Hook, ProgressiveShrinking
from graphc.passes.during.progressive_shrinking import phases_of
from graphc.passes.elastic import Space, find_space, subnetwork
from graphc.passes.elastic.masked import MASK
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from graphc.pipeline.base import Context
from tests import models
from tests.passes.elastic import nets

pytest.importorskip("accelerate", reason="training needs the extra `train`")
SHRINK: dict[str, Any] = {"type": "progressive-shrinking", "kernel": [5, 3], "width": [1.0, 0.5], "round_to": 4}


@pytest.fixture(scope="module")
def supernet() -> graphc.Program:
    return nets.captured(nets.supernet(matrices=False, kernel=5))


class Tiny(nn.Module):
    """Two convolutions with batch norms; not written as a supernet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 5, padding=2), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.head(self.norm2(self.conv2(x)).relu().mean((2, 3)))


def tiny() -> Tiny:
    return models.seeded(Tiny)  # type: ignore[return-value]


def program() -> graphc.Program:
    return graphc.capture(tiny(), (torch.randn(4, 1, 6, 7),))


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 1, 6, 7, generator=draw), torch.arange(8) % 3) for _ in range(count)]


def trained(hook: dict[str, Any], folder: Path | None = None, **options: Any) -> graphc.Compilation:
    settings = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", **options}
    passes = [Finetune(**settings, during=[hook])]
    return graphc.compile(program(), passes=passes, data={"train": batches}, output_dir=folder)


def by_hand(net: Tiny, x: Tensor, small: bool) -> Tensor:
    """In training: all of it, or half of the channels and the 3 x 3 middle of the 5 x 5 kernel."""
    a, b, ring = (4, 8, 1) if small else (8, 16, 0)
    weight = net.conv1.weight[:a, :, ring : 5 - ring, ring : 5 - ring]
    assert net.conv1.bias is not None
    x = F.conv2d(x, weight, net.conv1.bias[:a], padding=2 - ring)
    x = F.batch_norm(x, None, None, net.norm1.weight[:a], net.norm1.bias[:a], training=True).relu()
    x = F.conv2d(x, net.conv2.weight[:b, :a], padding=1)
    x = F.batch_norm(x, None, None, net.norm2.weight[:b], net.norm2.bias[:b], training=True).relu()
    return F.linear(x.mean((2, 3)), net.head.weight[:, :b], net.head.bias)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_step_is_that_of_the_sub_networks_written_by_hand(inplace: bool) -> None:
    """Of the largest and the smallest; with in-place distillation the smallest learns what the largest answers."""
    lesson = [{"type": "kl", "temperature": 2.0, "weight": 3.0}] if inplace else []
    found = trained({**SHRINK, "end": 0.0, "subnetworks": 0, "inplace_distillation": lesson}).program.tensors()
    net = tiny()
    x, y = batches()[0]
    large, small = by_hand(net, x, False), by_hand(net, x, True)
    loss = F.cross_entropy(small, y)
    if inplace:
        answers = [(logits / 2).log_softmax(1) for logits in (small, large.detach())]
        loss = 3 * 4 * F.kl_div(*answers, reduction="batchmean", log_target=True)
    ((F.cross_entropy(large, y) + loss) / 2).backward()
    for name, value in net.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(found[name].detach(), (value - 0.1 * value.grad).detach(), rtol=1e-5, atol=1e-6)
    wide = F.conv2d(x, net.conv1.weight, net.conv1.bias, padding=2)
    mean = 0.9 * net.norm1.running_mean + 0.1 * wide.mean((0, 2, 3))  # type: ignore[operator] # statistics: of the largest
    torch.testing.assert_close(found["norm1.running_mean"], mean.detach(), rtol=1e-5, atol=1e-6)


def test_what_is_trained_follows_from_seed_and_step() -> None:
    """Without the sandwich rule one random sub-network in each step; between steps it is the largest."""
    hook = ProgressiveShrinking(kernel=(5, 3), width=(1.0, 0.5), round_to=4, end=0.0, sandwich=False, subnetworks=1)
    whole = hook.prepare(program(), Context(program()))
    actions = hook.start(whole)
    masks = {name: value for name, value in whole.tensors().items() if name.endswith(MASK)}
    assert actions.variants is not None

    def left_out(seed: int, step: int) -> list[int]:
        (variant,) = actions.variants(seed, step, 100)  # type: ignore[misc]
        variant.begin()
        found = [int(mask.sum()) for mask in masks.values()]
        actions.after(step + 1, 100)
        assert not any(mask.any() for mask in masks.values())
        assert not variant.taught
        assert variant.counted
        return found

    drawn = [left_out(0, step) for step in range(12)]
    assert drawn == [left_out(0, step) for step in range(12)]
    assert drawn != [left_out(1, step) for step in range(12)]
    assert len(set(map(tuple, drawn))) > 4, "of eight sub-networks"


def test_phases_come_in_the_order_of_the_paper(supernet: graphc.Program) -> None:
    space = find_space(supernet, kernel=[5, 3, 1], expand=[6, 3], depth=[3, 2])
    phases = list(phases_of(space))
    values = [[list(c[0].values) if c else [] for _, c in phase.parts()] for phase in phases]
    assert values == [
        [[], [], []],
        [[5, 3], [], []],
        [[5, 3, 1], [], []],
        [[5, 3, 1], [], [3, 2]],
        [[5, 3, 1], [48, 24], [3, 2]],
    ]
    assert phases[0] == Space()
    assert phases[-1] == space
    hook = ProgressiveShrinking(kernel=(7, 5, 3), begin=0.2, end=0.6)
    assert [hook.phase(5, step, 10) for step in range(11)] == [0, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4]
    assert ProgressiveShrinking(kernel=(7, 5, 3), end=0.0).phase(5, 0, 10) == 4


@dataclass(frozen=True, kw_only=True)
class Stop(Hook):
    """Interrupts after a step."""

    type: ClassVar[str] = "stop-shrinking"

    def start(self, program: graphc.Program) -> Actions:
        def after(step: int, steps: int) -> None:
            if step == STOP:
                raise KeyboardInterrupt

        return Actions(after=after)


STOP = 5


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = {**SHRINK, "inplace_distillation": [{"type": "kl"}], "end": 0.75}
    tune = Finetune(steps=8, learning_rate=0.01, checkpoint_every=3, during=[hook, {"type": "stop-shrinking"}])
    data = {"train": batches}
    with pytest.raises(KeyboardInterrupt):
        graphc.compile(program(), passes=[tune], data=data, output_dir=tmp_path)
    monkeypatch.setattr("tests.passes.during.test_progressive_shrinking.STOP", -1)
    whole = graphc.compile(program(), passes=[tune], data=data).program.tensors()
    resumed = graphc.compile(program(), passes=[tune], data=data, output_dir=tmp_path, resume=True).program.tensors()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert str(sorted(whole)) == str(sorted(program().tensors()))


def test_sub_networks_of_a_supernet_are_trained_and_cut_out(supernet: graphc.Program) -> None:
    """Blocks, stages and squeeze branches; afterwards the smallest has statistics of its own by recalibrate."""
    x = torch.randn(8, 3, 20, 22, generator=torch.Generator().manual_seed(0))
    y = (x.mean((1, 2, 3)) > 0).long()
    data = {"train": [(x, y)], "calibration": [x]}
    hook = {"type": "progressive-shrinking", "kernel": [5, 3], "expand": [6, 3], "depth": [3, 1], "end": 0.3}
    tune = Finetune(steps=10, learning_rate=0.01, during=[{**hook, "subnetworks": 1}])
    done = graphc.compile(supernet, passes=[tune], data=data).program
    space = find_space(done, kernel=[5, 3], expand=[6, 3], depth=[3, 1])

    def loss(program: graphc.Program) -> float:
        small = subnetwork(program, space, space.smallest)
        ready = graphc.compile(small, passes=[Recalibrate()], data=data).program
        return float(F.cross_entropy(ready(x), y).detach())

    assert loss(done) < 0.7 * loss(supernet)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": [9]}, r"no kernel can be 9(.|\n)*5"),
        ({"depth": [2], "kernel": []}, "depth"),
        ({"kernel": [], "width": [], "inner": [0.5]}, "no sub-networks"),
        ({"width": [1.5]}, "cannot be"),
        ({"kernel": [], "width": []}, "nothing is to become smaller"),
        ({"expand": [6], "inner": [0.5]}, "expand and inner"),
        ({"begin": 0.6}, "ends at 0.5, before it begins"),
        ({"sandwich": False, "subnetworks": 0}, "without the sandwich rule"),
        ({"sandwich": False, "inplace_distillation": [{"type": "kl"}]}, "without the sandwich rule"),
        ({"inplace_distillation": [{"type": "cross-entropy"}]}, "cannot teach by cross-entropy"),
        ({"inplace_distillation": [{"type": "hint", "student": "conv1"}]}, "reads features"),
        ({"blocks": ["layers"]}, "layers"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        trained({**SHRINK, **options})


def test_it_goes_with_no_other_hook_that_rewrites() -> None:
    for other in ({"type": "gradual-sparsity", "sparsity": 0.5}, {"type": "qat"}, SHRINK):
        with pytest.raises(graphc.GraphError, match="goes with no other hook"):
            Finetune(steps=1, during=[SHRINK, other])
    Finetune(steps=1, during=[SHRINK, {"type": "freeze", "targets": ["head"]}])
