from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphc.passes.quantize.factors import NoSeamError
from graphc.passes.quantize.fold import fold_batch_norms
from graphc.passes.quantize.seam import Seam, rescale
from graphc.passes.quantize.seams import Seams, layer_inputs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import graphc
from graphc.errors import GraphError
from graphc.ir.edit import rebuild
from graphc.ir.masks import find_masks, put_masks
from tests import models


def capture(model: nn.Module, *shape: int) -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(models.randomise(model).eval(), (torch.randn(shape),))


def factors(seam: Seam) -> Tensor:
    return seam.shared(torch.exp(torch.randn(seam.size, generator=torch.Generator().manual_seed(3))))


def outputs(program: graphc.Program, *args: Any, **kwargs: Any) -> list[Tensor]:
    with torch.no_grad():
        return [x for x in tree_leaves(program(*args, **kwargs)) if isinstance(x, Tensor) and x.is_floating_point()]


def check(program: graphc.Program, seams: list[Seam], tolerance: float = 1e-5) -> None:
    """All seams together keep the function; the tensors on one side of one of them alone do not."""
    args, kwargs = program.example()
    expected = outputs(program, *args, **kwargs)
    tensors = program.tensors()
    for seam in seams:
        tensors |= seam.apply(tensors, factors(seam))
    assert distance(outputs(rebuild(program, tensors=tensors), *args, **kwargs), expected) <= tolerance
    half = seams[-1].apply(program.tensors(), factors(seams[-1]))
    broken = {end.tensor: half[end.tensor] for end in seams[-1].consumers}
    assert distance(outputs(rebuild(program, tensors=broken), *args, **kwargs), expected) > 10 * tolerance


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


def ends(seam: Seam) -> tuple[set[str], set[str]]:
    return {end.tensor for end in seam.producers}, {end.tensor for end in seam.consumers}


SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
TORCHVISION: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({}, 12),
    "mobilenet_v3_small": ({}, 19),
    "shufflenet_v2_x0_5": ({}, 53),
    "SwinTransformer": (SWIN, 10),
}
"""Models, their options, and how many seams there are."""


@pytest.mark.parametrize("name", TORCHVISION)
def test_real_models(name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    options, count = TORCHVISION[name]
    model = getattr(torchvision.models, name, None) or getattr(torchvision.models.swin_transformer, name)
    model = model(num_classes=7, **options)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    program = fold_batch_norms(capture(model, 2, 3, 32, 32))
    seams = Seams(program).all()
    assert len(seams) == count
    check(program, seams)


def test_a_residual_stream_is_one_seam() -> None:
    program = fold_batch_norms(models.residual())
    stream, inner = Seams(program).all()
    assert ends(stream) == (
        {"stem.weight", "stem.bias", "conv2.weight", "conv2.bias"},
        {"conv1.weight", "head.weight"},
    )
    assert ends(inner) == ({"conv1.weight", "conv1.bias"}, {"conv2.weight"})
    check(program, [stream, inner])


def test_an_unfolded_norm_makes_its_units() -> None:
    assert ends(Seams(models.residual()).all()[1])[0] == {"norm1.weight", "norm1.bias"}


def test_grouped_depthwise_and_transposed_convolutions() -> None:
    program = graphc.capture(models.seeded(models.Grouped), (models.image(),))
    seams = Seams(program).all()
    assert [ends(seam)[1] for seam in seams] == [
        {"depthwise.weight"},
        {"grouped.weight"},
        {"up.weight"},
        {"last.weight"},
    ]
    check(program, seams)


class Tail(nn.Module):
    """A convolution, some ops, and a layer that takes what they give."""

    def __init__(self, between: Callable[[Tensor], Tensor], last: nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Conv2d(3, 6, 3), between, last
        self.other = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module, int]] = {
    "pools": (lambda x: F.avg_pool2d(F.max_pool2d(x, 2, padding=1), 2, padding=1), nn.Conv2d(6, 4, 1), 6),
    "zeros around": (lambda x: F.pad(x, (1, 2, 0, 1)), nn.Conv2d(6, 4, 3, padding=1), 6),
    "flattened": (lambda x: F.leaky_relu(x).flatten(1), nn.Linear(6 * 6 * 7, 4), 6),
    "mean": (lambda x: x.relu().mean((2, 3)), nn.Linear(6, 4), 6),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), nn.Linear(6, 4), 6),
    "enlarged": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), nn.Conv2d(6, 4, 1), 6),
    "shuffled": (lambda x: F.channel_shuffle(x, 3), nn.Conv2d(6, 4, 1), 6),
    "twice": (lambda x: torch.cat([x, -x], 1), nn.Conv2d(12, 4, 1), 6),
    "repeated": (lambda x: x.repeat_interleave(2, 1), nn.Conv2d(12, 4, 1), 6),
    "halves added": (lambda x: x[:, :3] + x[:, 3:], nn.Conv2d(3, 4, 1), 3),
    "stacked": (lambda x: torch.stack([x[:, 0], x[:, 4]], 1), nn.Conv2d(2, 4, 1), 2),
    "pixels": (lambda x: F.pixel_unshuffle(x[:, :, :, :6], 2), nn.Conv2d(24, 4, 1), 6),
    "gated": (lambda x: torch.linspace(0, 1, 7).sigmoid() * (x * 3), nn.Conv2d(6, 4, 1), 6),
    "clamped at zero": (lambda x: x.clamp(min=0), nn.Conv2d(6, 4, 1), 6),
    "masked": (lambda x: x.masked_fill(torch.arange(7) > 4, 0.0), nn.Conv2d(6, 4, 1), 6),
}
"""Ops that factors go through, what reads the value behind them, and how many factors there are."""


@pytest.mark.parametrize("name", BETWEEN)
def test_ops_between(name: str) -> None:
    between, last, count = BETWEEN[name]
    program = capture(Tail(between, last), 2, 3, 8, 9)
    (seam,) = Seams(program).all()
    assert len(seam.units.unique()) == count
    assert "first.weight" in ends(seam)[0]
    assert ends(seam)[1] == {"last.weight"}
    check(program, [seam])


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "gelu": (F.gelu, "gelu"),
    "sigmoid": (torch.sigmoid, "sigmoid"),
    "hardswish": (F.hardswish, "hardswish"),
    "softmax": (lambda x: x.softmax(1), "softmax"),
    "relu6": (F.relu6, "relu6"),
    "clamp": (lambda x: x.clamp(min=0, max=4.0), "at 4.0"),
    "a number": (lambda x: x + 1.0, "number 1.0"),
    "square": (lambda x: x * x, "itself"),
    "silu by itself": (lambda x: x * x.sigmoid(), "sigmoid"),
    "norm": (lambda x: F.group_norm(x, 3), "gain"),
    "ones around": (lambda x: F.pad(x, (1, 1), value=1.0), "pads with 1.0"),
    "added to an average over channels": (lambda x: x + x.mean(1, keepdim=True), "the same factor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_ops_that_factors_do_not_go_through(name: str) -> None:
    between, why = REFUSED[name]
    program = capture(Tail(between, nn.Conv2d(6, 4, 1)), 2, 3, 8, 9)
    (value,) = [node for node in layer_inputs(program) if node.op == "call_function"]
    with pytest.raises(NoSeamError, match=why):
        Seams(program).at(value.name, 1)
    assert Seams(program).all() == []


class Shared(nn.Module):
    """One weight that two layers use, only one of which reads the value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.first(x).relu()) + self.last(self.shared(x).relu())


def test_a_tied_weight_is_no_end() -> None:
    program = capture(Shared(), 3, 6)
    assert Seams(program).all() == []


def test_a_table_tied_to_the_head_is_no_end() -> None:
    program = models.transformer()
    with pytest.raises(NoSeamError, match="tokens_weight"):
        Seams(program).at("layer_norm_4", -1)
    untied = models.transformer(tied=False)
    assert ends(Seams(untied).at("layer_norm_4", -1))[1] == {"head.weight"}


def test_an_input_and_an_output_are_no_ends() -> None:
    program = models.residual()
    with pytest.raises(NoSeamError, match="an input"):
        Seams(program).at("x", 1)
    with pytest.raises(NoSeamError, match="an output"):
        Seams(program).at(str(program.graph.output_node().args[0][0]), 1)  # type: ignore[index]


LANGUAGE = {"bert": (models.tiny_bert, 3), "gpt2": (models.tiny_gpt2, 6), "llama": (models.tiny_llama, 9)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models(name: str, attention: str) -> None:
    pytest.importorskip("transformers")
    build, count = LANGUAGE[name]
    model, inputs = build(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    program = graphc.capture(model, (), inputs)
    seams = Seams(program).all()
    assert len(seams) == count
    check(program, seams)


def test_values_of_grouped_queries_share_factors_and_gated_layers_have_theirs_on_one_side() -> None:
    pytest.importorskip("transformers")
    model, inputs = models.tiny_llama()
    seams = {min(ends(seam)[1]): seam for seam in Seams(graphc.capture(model, (), inputs)).all()}
    attention = seams["model.layers.0.self_attn.o_proj.weight"]
    assert (attention.size, len(attention.units.unique())) == (40, 20)
    assert ends(attention)[0] == {"model.layers.0.self_attn.v_proj.weight"}
    assert ends(seams["model.layers.0.mlp.down_proj.weight"])[0] == {"model.layers.0.mlp.up_proj.weight"}
    norm = seams["model.layers.0.mlp.gate_proj.weight"]
    assert ends(norm) == (
        {"model.layers.0.post_attention_layernorm.weight"},
        {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"},
    )


class Experts(nn.Module):
    """A batch of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 10)), nn.Parameter(torch.randn(3, 10, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (x.expand(3, -1, -1) @ self.up).relu() @ self.down


def test_each_of_a_batch_of_weights_shares_factors() -> None:
    program = capture(Experts(), 5, 8)
    seam = Seams(program).at("relu", 2)
    assert ends(seam) == ({"up"}, {"down"})
    check(program, [seam])


def test_masks_stay() -> None:
    program = fold_batch_norms(models.residual())
    program = put_masks(program, {"conv1.weight": torch.rand(24, 12, 3, 3) > 0.5})
    seam = Seams(program).all()[1]
    assert ends(seam)[0] == {"conv1.weight", "conv1.bias"}
    done = rescale(program, seam, factors(seam), "note")
    assert find_masks(done) == find_masks(program) != []
    assert done.history == (*program.history, "note")
    check(program, [seam])


def test_half_precision_keeps_its_dtype() -> None:
    program = fold_batch_norms(models.residual())
    seam = Seams(program).all()[0]
    new = seam.apply({name: tensor.bfloat16() for name, tensor in program.tensors().items()}, factors(seam))
    assert {tensor.dtype for tensor in new.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: f[1:], "takes 12 factors"),
        (lambda f: f * 0, "larger than zero"),
        (lambda f: f / 0, "finite"),
        (lambda f: torch.arange(1.0, 13.0), "units 0 and 1 must have the same factor"),
    ],
)
def test_wrong_factors_are_refused(change: Callable[[Tensor], Tensor], why: str) -> None:
    program = capture(Tail(lambda x: x.repeat_interleave(2, 1), nn.Conv2d(12, 4, 1)), 2, 3, 8, 9)
    (seam,) = Seams(program).all()
    with pytest.raises(GraphError, match=why):
        rescale(program, seam, change(torch.ones(12)))
