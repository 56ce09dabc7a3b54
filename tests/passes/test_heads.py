"""Heads removed by an explicit list compute what the original does with those heads' outputs at zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from graphc.passes import PruneHeads
from torch import nn

import graphc
from tests import models

transformers = pytest.importorskip("transformers", reason="pip install transformers")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 44}
REMOVED = {0: [1], 1: [0, 3]}


def bert(attention: str) -> tuple[nn.Module, dict[str, torch.Tensor], list[nn.Linear]]:
    model, inputs = models.tiny_bert(attention)
    return model, inputs, [layer.attention.output.dense for layer in model.bert.encoder.layer]


def vit(attention: str) -> tuple[nn.Module, dict[str, torch.Tensor], list[nn.Linear]]:
    config = transformers.ViTConfig(image_size=24, patch_size=8, attn_implementation=attention, **SIZES)
    model = transformers.ViTForImageClassification(config)
    outputs = [m for n, m in model.named_modules() if n.endswith(("attention.output.dense", "attention.o_proj"))]
    return model, {"pixel_values": torch.randn(3, 3, 24, 24)}, outputs


def gpt2(attention: str) -> tuple[nn.Module, dict[str, torch.Tensor], list[nn.Linear]]:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=61, n_positions=20, attn_implementation=attention
    )
    model = transformers.GPT2LMHeadModel(config)
    return model, {"input_ids": models.tokens(3, 11, 61)}, [block.attn.c_proj for block in model.transformer.h]


@contextmanager
def silenced(outputs: list[nn.Linear], width: int) -> Iterator[None]:
    """What enters the output projections has zeros in the place of the removed heads."""

    def hook(heads: list[int]) -> Any:
        def zero(module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            parts = list(args[0].split(width, dim=-1))
            return (torch.cat([p * (i not in heads) for i, p in enumerate(parts)], -1),)

        return zero

    handles = [outputs[i].register_forward_pre_hook(hook(heads)) for i, heads in REMOVED.items()]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [bert, vit, gpt2])
def test_removed_heads_are_as_if_silent(make: Any, attention: str) -> None:
    torch.manual_seed(0)
    model, inputs, outputs = make(attention)
    model = models.randomise(model).eval()
    assert len(outputs) == 2
    dynamic = {name: {0: "batch"} for name in inputs}
    program = graphc.capture(model, (), inputs, dynamic=dynamic)
    small = graphc.compile(program, passes=[PruneHeads(heads=REMOVED)]).program
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in program.parameters())
    with torch.no_grad():
        whole = model(**inputs).logits
        with silenced(outputs, 8):
            expected = model(**inputs).logits
        found = small(**inputs).logits
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert float((whole - expected).norm() / expected.norm()) > 1e-3
