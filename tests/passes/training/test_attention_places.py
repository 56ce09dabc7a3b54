from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from graphc.passes import PruneHeads
from graphc.passes.training.attention import Attention, find_attention, find_attention_at, unread_attention
from torch import Tensor, nn

import graphc
from graphc.errors import GraphError, RecipeError
from graphc.ir.taps import tapped
from tests import models


def read(program: graphc.Program, attention: Attention, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a run."""
    batch = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)).shape[0]
    with torch.no_grad():
        _, values = tapped(program, attention.nodes)(*args, **kwargs)
    return attention.qkv(values, batch)


def weights(query: Tensor, key: Tensor, causal: bool = False) -> Tensor:
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if causal:
        logits = logits.masked_fill(~torch.ones(logits.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    return logits.softmax(-1)


def outputs_of(model: nn.Module, paths: list[str], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = []
    for path in paths:

        def hook(module: nn.Module, given: Any, value: Tensor, path: str = path) -> None:
            seen[path] = value

        handles.append(model.get_submodule(path).register_forward_hook(hook))
    with torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen


def true_weights(model: nn.Module, kwargs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return model(**kwargs, output_attentions=True).attentions


@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_bert(way: str) -> None:
    pytest.importorskip("transformers")
    model, kwargs = models.tiny_bert(way)
    program = graphc.capture(model, (), kwargs)
    found = find_attention(program)
    assert [a.path for a in found] == [f"bert.encoder.layer.{i}.attention.self" for i in range(2)]
    assert unread_attention(program) == {}
    expected = true_weights(models.tiny_bert("eager")[0], kwargs)
    for attention, true in zip(found, expected, strict=True):
        qkv = read(program, attention, **kwargs)
        paths = [f"{attention.path}.{name}" for name in ("query", "key", "value")]
        for value, linear in zip(qkv, outputs_of(model, paths, **kwargs).values(), strict=True):
            assert value.shape == (3, 4, 11, 8)
            torch.testing.assert_close(value, linear.view(3, 11, 4, 8).transpose(1, 2))
        torch.testing.assert_close(weights(*qkv[:2]), true)


@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("build", [models.tiny_gpt2, models.tiny_llama])
def test_causal_attention_with_and_without_groups(build: Any, way: str) -> None:
    pytest.importorskip("transformers")
    model, kwargs = build(way)
    program = graphc.capture(model, (), kwargs)
    found = find_attention(program)
    expected = true_weights(build("eager")[0], kwargs)
    assert len(found) == len(expected) == 2
    for attention, true in zip(found, expected, strict=True):
        query, key, value = read(program, attention, **kwargs)
        assert query.shape == key.shape == value.shape
        torch.testing.assert_close(weights(query, key, causal=True), true)


def test_vit_fused_and_not(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    x = torch.randn(2, 3, 32, 32)
    runs = []
    for fused in (True, False):
        model = models.seeded(timm.models.VisionTransformer, **options)
        for block in model.blocks:
            monkeypatch.setattr(block.attn, "fused_attn", fused)
        program = graphc.capture(model, (x,))
        found = find_attention(program)
        assert [a.path for a in found] == ["blocks.0.attn", "blocks.1.attn"]
        runs.append([read(program, attention, x) for attention in found])
    for one, other in zip(*runs, strict=True):
        assert one[0].shape == (2, 3, 17, 8)
        torch.testing.assert_close(one[1:], other[1:])
        torch.testing.assert_close(one[0] / math.sqrt(8), other[0])  # not fused, the queries are scaled before


class Bare(nn.Module):
    """Attention written out in some way, and a linear layer to its result."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.bias = nn.Parameter(torch.randn(1, 2, 5, 5))
        self.way = way

    def heads(self, x: Tensor) -> Tensor:
        return x.view(-1, 5, 2, 4).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(f(x)) for f in (self.q, self.k, self.v))
        if self.way == "rows":
            q, k, v = (t.reshape(-1, 5, 4) for t in (q, k, v))
            logits = torch.bmm(q, k.transpose(1, 2)).view(-1, 2, 5, 5) / 2 + self.bias
            y = torch.bmm(logits.softmax(-1).view(-1, 5, 5), v).view(-1, 2, 5, 4)
        elif self.way == "permuted":
            logits = q @ self.k(x).view(-1, 5, 2, 4).permute(0, 2, 3, 1)
            y = logits.clamp(-3, 3).masked_fill(torch.ones(5, 5).triu(1).bool(), -1e4).softmax(-1) @ v
        elif self.way == "two products":
            y = (q @ k.transpose(-1, -2) + k @ k.transpose(-1, -2)).softmax(-1) @ v
        elif self.way == "gated":
            y = (q @ k.transpose(-1, -2) + self.q(x).mean(-1)[:, None, None]).softmax(-1) @ v
        elif self.way == "over queries":
            y = (q @ k.transpose(-1, -2)).softmax(-2) @ v
        elif self.way == "router":
            y = self.heads(self.q(x).softmax(-1) * self.v(x))
        else:
            y = torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)
        return self.out(y.transpose(1, 2).reshape(-1, 5, 8))


@pytest.mark.parametrize(("way", "transposed"), [("rows", False), ("permuted", True)])
def test_ways_of_writing_it_out(way: str, transposed: bool) -> None:
    model = models.seeded(Bare, way)
    x = torch.randn(3, 5, 8)
    program = graphc.capture(model, (x,), dynamic={"x": {0: "batch"}})
    (attention,) = find_attention(program)
    assert attention.transposed is transposed
    for batch in (x, torch.randn(7, 5, 8)):
        seen = outputs_of(model, ["q", "k", "v"], batch)
        for value, linear in zip(read(program, attention, batch), seen.values(), strict=True):
            torch.testing.assert_close(value, model.heads(linear))


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("two products", "its logits are made of 2 products"),
        ("gated", "its logits are not of .* alone"),
        ("over queries", "not over the last dim"),
        ("router", "no product of queries and keys"),
        ("einsum", "operands of aten.einsum.default"),
    ],
)
def test_what_is_not_understood_is_left_out_with_the_reason(way: str, why: str) -> None:
    inner = models.seeded(Bare, way)
    program = graphc.capture(nn.Sequential(inner, nn.Linear(8, 2)).eval(), (torch.randn(3, 5, 8),))
    assert find_attention(program) == []
    assert list(unread_attention(program)) == ["0"]
    with pytest.raises(RecipeError, match=f"attention of '0' is not understood[\\s\\S]*{why}"):
        find_attention_at(program, "0")


def test_disentangled_attention_is_left_out_and_a_position_bias_is_not() -> None:
    transformers = pytest.importorskip("transformers")
    ids = {"input_ids": models.tokens(3, 11, 61), "attention_mask": torch.ones(3, 11, dtype=torch.long)}
    t5 = transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4)
    program = graphc.capture(models.seeded(lambda: transformers.T5EncoderModel(t5)), (), ids)
    assert [a.path for a in find_attention(program)] == [f"encoder.block.{i}.layer.0.SelfAttention" for i in range(2)]
    deberta = transformers.DebertaV2Config(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=44,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_position_embeddings=20,
    )
    program = graphc.capture(models.seeded(lambda: transformers.DebertaV2Model(deberta)), (), ids)
    assert find_attention(program) == []
    assert "depends on the data too" in unread_attention(program)["encoder.layer.0.attention.self"]


def test_by_path() -> None:
    program = models.transformer()
    assert find_attention_at(program, "blocks.1.attention").path == "blocks.1.attention"
    assert find_attention_at(program, "blocks.0").path == "blocks.0.attention"
    with pytest.raises(RecipeError, match=r"'blocks' has 2 attentions[\s\S]*'blocks.0.attention'"):
        find_attention_at(program, "blocks")
    with pytest.raises(RecipeError, match=r"'blocks.2.attention' has no attention[\s\S]*did you mean"):
        find_attention_at(program, "blocks.2.attention")


def test_after_pruning_heads() -> None:
    program = models.transformer()
    pruned = PruneHeads(pruning_ratio=0.5).run(program, graphc.Context(program))
    attention = find_attention_at(pruned, "blocks.0")
    query, key, value = read(pruned, attention, models.tokens())
    assert query.shape == key.shape == value.shape == (3, 2, 11, 5)


def test_values_of_another_batch_are_refused() -> None:
    attention = find_attention(models.transformer())[0]
    value = torch.zeros(6, 4, 11, 5)
    with pytest.raises(GraphError, match=r"\[6, 4, 11, 5\], for 4 samples"):
        attention.qkv([value] * 3, 4)
    windows = attention.qkv([value] * 3, 2)[0]
    assert windows.shape == (2, 12, 11, 5)
    with pytest.raises(GraphError, match="4 heads of queries are not so many times 3 of keys"):
        attention.qkv([value, value[:, :3], value[:, :3]], 6)
