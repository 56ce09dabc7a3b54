from __future__ import annotations

from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, PruneLayers
from graphc.passes.training.pairs import find_blocks, pairs
from graphc.passes.training.taps import find_tap
from torch import Tensor, nn

import graphc
from graphc.errors import RecipeError
from tests import models


class Block(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 9), nn.Linear(9, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Stacks(nn.Module):
    """Five blocks, a bridge, three blocks, and a numbered head that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Block() for _ in range(5))
        self.bridge = nn.Linear(6, 6)
        self.decoder = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.encoder:
            x = block(x)
        x = self.bridge(x)
        for block in self.decoder:
            x = block(x)
        return self.head(x)


class Worded(nn.Module):
    """Blocks whose numbers are part of a word."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2 = Block(), Block()
        self.fc1, self.fc2 = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.block2(self.block1(x))))


def stacks() -> graphc.Program:
    return graphc.capture(models.seeded(Stacks), (models.vectors(),))


def without(program: graphc.Program, *layers: str) -> graphc.Program:
    return PruneLayers(layers=layers).run(program, graphc.Context(program))


def same(*names: str) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def test_blocks_are_the_outermost_that_have_modules_within() -> None:
    expected = [f"encoder.{i}" for i in range(5)] + [f"decoder.{i}" for i in range(3)]
    assert find_blocks(stacks()) == expected
    assert find_blocks(models.transformer()) == ["blocks.0", "blocks.1"]
    assert find_blocks(graphc.capture(models.seeded(Worded), (models.vectors(),))) == ["block1", "block2"]
    plain = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    assert find_blocks(graphc.capture(plain, (models.vectors(),))) == ["0", "1", "2"]


def test_auto_pairs_what_is_left() -> None:
    teacher = stacks()
    student = without(teacher, "encoder.0", "encoder.2", "encoder.3", "decoder.1", "decoder.2")
    assert pairs(student, teacher, "auto") == same("encoder.1", "encoder.4", "decoder.0")
    assert pairs(teacher, teacher, "auto") == same(*find_blocks(teacher))


def test_absorb_pairs_with_the_last_that_was_removed_after() -> None:
    teacher = stacks()
    student = without(teacher, "encoder.0", "encoder.2", "encoder.3", "decoder.1", "decoder.2")
    assert pairs(student, teacher, "absorb") == [
        ("encoder.1", "encoder.3"),
        ("encoder.4", "encoder.4"),
        ("decoder.0", "decoder.2"),
    ]


def test_last_pairs_programs_of_other_names() -> None:
    student = without(models.transformer(), "blocks.1")
    assert pairs(student, stacks(), "last") == [("blocks.0", "decoder.2")]
    with pytest.raises(RecipeError, match="no block in common") as error:
        pairs(student, stacks(), "auto")
    assert "blocks.0" in error.value.why
    assert "decoder.2" in error.value.why


def test_a_model_without_numbered_modules_is_refused() -> None:
    with pytest.raises(RecipeError, match="the student has no blocks"):
        pairs(models.residual(), stacks(), "last")
    with pytest.raises(RecipeError, match="the teacher has no blocks"):
        pairs(stacks(), models.residual(), "auto")


def test_an_unknown_way_is_refused() -> None:
    how: Any = "absorbed"
    with pytest.raises(RecipeError, match="did you mean 'absorb'"):
        pairs(stacks(), stacks(), how)


def test_resnet_with_fewer_filters_and_without_a_block() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = models.seeded(torchvision.models.resnet18, weights=None)
    teacher = graphc.capture(model, (torch.randn(2, 3, 40, 40),))
    student = without(PruneFilters(pruning_ratio=0.5).run(teacher, graphc.Context(teacher)), "layer2.1")
    blocks = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
    assert find_blocks(teacher) == blocks
    blocks.remove("layer2.1")
    assert pairs(student, teacher, "auto") == same(*blocks)
    absorbed = dict(pairs(student, teacher, "absorb"))
    assert absorbed.pop("layer2.0") == "layer2.1"
    assert all(ours == theirs for ours, theirs in absorbed.items())
    ours, theirs = (find_tap(p, "layer3.1").meta["val"].shape for p in (student, teacher))
    assert ours[1] < theirs[1]
    assert ours[2:] == theirs[2:]


def test_bert_and_gpt2_with_one_layer_left() -> None:
    pytest.importorskip("transformers")
    for build, block in ((models.tiny_bert, "bert.encoder.layer"), (models.tiny_gpt2, "transformer.h")):
        model, kwargs = build()
        teacher = graphc.capture(model, (), kwargs)
        student = without(teacher, f"{block}.1")
        assert find_blocks(teacher) == [f"{block}.0", f"{block}.1"]
        assert find_blocks(student) == [f"{block}.0"]
        assert pairs(student, teacher, "auto") == [(f"{block}.0", f"{block}.0")]
        assert pairs(student, teacher, "absorb") == pairs(student, teacher, "last") == [(f"{block}.0", f"{block}.1")]


def test_the_block_that_makes_the_position_bias_is_one() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4)
    model = models.seeded(lambda: transformers.T5EncoderModel(config))
    program = graphc.capture(model, (), {"input_ids": models.tokens(3, 11, 61)})
    assert find_blocks(program) == ["encoder.block.0", "encoder.block.1"]
