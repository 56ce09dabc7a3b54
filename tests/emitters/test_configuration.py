"""Configs that make the sizes of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

from graphc.passes import PruneFilters, PruneLayers, PruneWidth  # noqa: E402

import graphc  # noqa: E402 - after the check that transformers is there
from graphc.emitters import configuration  # noqa: E402
from tests.emitters.programs import half, language  # noqa: E402
from tests.models import seeded, tiny_gpt2, tiny_llama  # noqa: E402


def resnet() -> tuple[Any, graphc.Program]:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[2, 3], layer_type="basic")
    model = seeded(lambda: transformers.ResNetForImageClassification(config))
    return model, graphc.capture(model, (), {"pixel_values": torch.randn(3, 3, 32, 32)})


def test_sizes_in_lists_of_a_config() -> None:
    model, program = resnet()
    smaller = graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.5, importance="l1")]).program
    config = graphc.to_module(smaller, model).config
    assert (config.embedding_size, config.hidden_sizes) == (4, [8, 12])
    assert (model.config.embedding_size, model.config.hidden_sizes) == (8, [16, 24])


def test_depths_in_lists_of_a_config() -> None:
    model, program = resnet()
    layers = ("resnet.encoder.stages.1.layers.1",)
    smaller = graphc.compile(program, passes=[PruneLayers(layers=layers)]).program
    back = graphc.to_module(smaller, model)
    assert back.config.depths == [2, 2]
    assert configuration.misfits(back) == []


def test_a_width_that_was_worked_out_is_stated() -> None:
    model, program = language(tiny_gpt2)
    model.config.n_inner = None  # would be worked out as 4 * 32
    smaller = graphc.compile(program, passes=[PruneWidth(pruning_ratio=0.5)]).program
    back: Any = graphc.to_module(smaller, model)
    assert (back.config.n_inner, back.config.n_embd) == (22, 32)


def test_nothing_is_stated_where_no_config_fits() -> None:
    model, program = language(tiny_gpt2)
    back: Any = graphc.to_module(half(program, "heads"), model)
    assert (back.config.n_embd, back.config.vocab_size, back.config.n_positions) == (32, 61, 20)
    assert any("attn.c_attn.weight (* = 0, 1) is [32, 48]" in text for text in configuration.misfits(back))


def test_building_leaves_random_numbers_alone() -> None:
    model, _ = language(tiny_llama)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    assert configuration.misfits(model) == []
    assert torch.equal(torch.rand(2), wanted)
