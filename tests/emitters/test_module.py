"""Back into the user's own class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.emitters import to_module
from graphc.errors import EmitError
from graphc.ir.edit import rebuild, redirect
from tests import models
from tests.emitters.programs import half, language


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_resnet18() -> None:
    from torchvision.models import resnet18

    model = models.seeded(resnet18).train()
    program = half(graphc.capture(model, (torch.randn(3, 3, 48, 40),)))
    back = to_module(program, model)
    assert type(back) is type(model)
    assert back.training
    assert size(back) == sum(p.numel() for p in program.parameters()) < 0.3 * size(model)
    block = back.layer2[0]
    assert (block.conv1.in_channels, block.conv1.out_channels) == (32, 64)
    assert (block.bn1.num_features, back.fc.in_features, back.fc.out_features) == (64, 256, 1000)
    assert model.layer2[0].conv1.in_channels == 64
    assert back.layer2[0].conv1.weight is not program.tensors()["layer2.0.conv1.weight"]


def test_groups_are_restated() -> None:
    model = models.seeded(models.Grouped)
    back = to_module(half(graphc.capture(model, (models.image(),))), model)
    channels = back.expand.out_channels
    assert channels < 12
    assert (back.depthwise.groups, back.depthwise.in_channels, back.depthwise.out_channels) == (channels,) * 3
    assert back.grouped.groups == back.grouped.in_channels // back.grouped.weight.shape[1]
    assert back.grouped.out_channels == back.up.in_channels
    assert back.up.out_channels == back.last.in_channels == 5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_heads(attention: str) -> None:
    model, program = language(models.tiny_bert, attention=attention)
    back = to_module(half(program, "heads"), model)
    part = back.bert.encoder.layer[1].attention.self
    assert (part.num_attention_heads, part.attention_head_size, part.all_head_size) == (2, 8, 16)
    assert (part.query.out_features, back.config.num_attention_heads) == (2 * 8, 2)
    assert (model.config.num_attention_heads, back.config.hidden_size) == (4, 32)


def test_everything_of_bert_and_gpt2() -> None:
    model, program = language(models.tiny_bert)
    config = to_module(half(program), model).config
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (16, 22, 2)
    model, program = language(models.tiny_gpt2)
    back = to_module(half(program), model)
    assert back.lm_head.weight is back.transformer.wte.weight
    assert (back.transformer.h[0].attn.split_size, back.transformer.h[0].attn.c_attn.nf) == (2 * 4, 3 * 2 * 4)
    assert (back.config.n_embd, back.config.n_head, back.config.n_inner) == (16, 2, 22)


def test_the_config_of_llama_makes_the_same_model() -> None:
    model, program = language(models.tiny_llama)
    axes = [a for a in graphc.find_axes(program) if a.pinned is None and "head_dim" not in a.roles]
    back = to_module(graphc.slice(program, {a.name: range(a.size // 2) for a in axes}), model)
    assert size(back) < size(model)
    fresh = type(back)(back.config)
    assert {n: t.shape for n, t in fresh.state_dict().items()} == {n: t.shape for n, t in back.state_dict().items()}


def without_layer(program: graphc.Program, after: str, last: str) -> graphc.Program:
    """The value of the norm at ``last`` is replaced by the one at ``after``."""
    ends = {}
    for node in program.graph.nodes:
        for path in (after, last):
            if any(str(n.target).startswith(path) for n in node.all_input_nodes):
                ends[path] = node.name
    return redirect(program, {ends[last]: ends[after]}, note="one layer less")


def test_a_removed_layer_of_bert() -> None:
    model, program = language(models.tiny_bert)
    layer = "bert.encoder.layer.{}.output.LayerNorm.weight"
    shallow = without_layer(program, layer.format(0), layer.format(1))
    back = to_module(shallow, model)
    assert (len(back.bert.encoder.layer), back.config.num_hidden_layers) == (1, 1)
    first = without_layer(program, "bert.embeddings.LayerNorm.weight", layer.format(0))
    back = to_module(first, model)
    own, kept = back.bert.encoder.layer[0], model.bert.encoder.layer[1]
    assert torch.equal(own.output.dense.weight, kept.output.dense.weight)
    assert own.attention.self.layer_idx == 0


class Stages(nn.Module):
    """Two layers without a list: neither can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def shallow(model: nn.Module) -> graphc.Program:
    program = graphc.capture(model, (models.vectors(),))
    return redirect(program, {"linear_1": "linear"})


def wider(model: nn.Module) -> graphc.Program:
    program = graphc.capture(model, (models.vectors(),))
    return rebuild(program, tensors={"second.weight": nn.Parameter(torch.zeros(6, 6))})


def renamed(model: nn.Module) -> graphc.Program:
    def edit(graph: torch.fx.Graph) -> None:
        next(n for n in graph.nodes if n.target == "second.weight").target = "third"

    program = graphc.capture(model, (models.vectors(),))
    return rebuild(program, edit, tensors={"third": nn.Parameter(torch.zeros(6, 6))})


def halved(model: nn.Module) -> graphc.Program:
    return half(graphc.capture(model, (models.image(),)))


@pytest.mark.parametrize(
    ("build", "change", "text"),
    [
        (Stages, shallow, "the program has none of second, which the class runs"),
        (Stages, renamed, "no parameter of this name"),
        (models.Concat, halved, "split([10, 10], 1)"),
    ],
)
def test_what_a_class_cannot_express(
    build: Callable[[], nn.Module], change: Callable[[Any], graphc.Program], text: str
) -> None:
    model = models.seeded(build)
    with pytest.raises(EmitError, match="cannot express the program") as caught:
        to_module(change(model), model)
    assert text in str(caught.value)


def test_new_values_without_new_sizes() -> None:
    model = models.seeded(Stages)
    assert not to_module(wider(model), model).second.weight.any()
    assert model.second.weight.any()


class Torch(nn.Module):
    """torch's own attention, whose width is cut with its input's."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.down = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        return self.down(self.attention(y, y, y, need_weights=False)[0])


def test_multihead_attention_keeps_its_width_or_is_refused() -> None:
    model = models.seeded(Torch)
    program = graphc.capture(model, (torch.randn(3, 5, 6),))
    assert to_module(program, model).attention.num_heads == 4
    with pytest.raises(EmitError, match="cannot express"):
        to_module(half(program, "heads"), model)
