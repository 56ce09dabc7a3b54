"""Half precision: near float32, what stays in float32, masks, ranges, ties, files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import Quantize
from graphc.passes.quantize.cast import cast
from graphc.passes.quantize.half import check_range
from graphc.passes.quantize.noise import decibels
from graphc.passes.quantize.wide import wide_values
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from graphc.emitters import emit, load, to_module
from graphc.emitters.naming import names_of
from graphc.errors import EmitError, GraphError, RecipeError
from graphc.ir.kinds import kind
from graphc.ir.verify import verify
from graphc.measure.fidelity import named_tensors
from tests import models
from tests.emitters import programs

HALVES = [torch.float16, torch.bfloat16]


def ids(value: Any) -> str:
    return str(value).removeprefix("torch.")


def hugging(name: str, **config: Any) -> graphc.Program:
    """A tiny transformers model in eager attention, with a padded text among its inputs."""
    import transformers

    model, kind_of_config = (getattr(transformers, part) for part in name.split("/"))
    made = models.seeded(lambda: model(kind_of_config(attn_implementation="eager", **config)))
    mask = torch.ones(3, 11, dtype=torch.int64)
    mask[1, 7:] = 0
    inputs = {"input_ids": torch.randint(0, 60, (3, 11)), "attention_mask": mask}
    return graphc.capture(made, (), inputs, dynamic={key: {0: "batch", 1: "seq"} for key in inputs})


def vision(build: Callable[[], nn.Module], size: int) -> graphc.Program:
    return graphc.capture(models.seeded(build), (torch.randn(2, 3, size, size),), dynamic={})


def swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlockV2

    return SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], block=SwinTransformerBlockV2, num_classes=10)


def vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=10)


def resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1])


TEXT: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
T5 = {"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
NETS: dict[str, tuple[Callable[[], graphc.Program], float]] = {
    "bert": (lambda: hugging("BertModel/BertConfig", intermediate_size=64, **TEXT), 60),
    "gpt2": (lambda: programs.program("gpt2"), 60),
    "llama": (
        lambda: hugging("LlamaForCausalLM/LlamaConfig", num_key_value_heads=2, intermediate_size=64, **TEXT),
        60,
    ),
    "t5 encoder": (lambda: hugging("T5EncoderModel/T5Config", **T5), 57),  # its scores are not scaled
    "vit": (lambda: vision(vit, 32), 60),
    "swin v2": (lambda: vision(swin, 32), 57),
    "resnet": (lambda: vision(resnet, 32), 60),
    "residual": (models.residual, 60),
}


@cache
def net_of(name: str) -> graphc.Program:
    return NETS[name][0]()


def results(program: graphc.Program) -> list[tuple[str, Tensor]]:
    args, kwargs = program.example()
    with torch.no_grad():
        return named_tensors(program(*args, **kwargs))


def sqnr(before: graphc.Program, after: graphc.Program) -> float:
    pairs = zip(results(before), results(after), strict=True)
    return min(decibels(*energies(x, y)) for (_, x), (_, y) in pairs if x.is_floating_point())


def energies(x: Tensor, y: Tensor) -> tuple[float, float]:
    return float(x.double().square().sum()), float((x.double() - y.double()).square().sum())


@pytest.mark.parametrize("dtype", HALVES, ids=ids)
@pytest.mark.parametrize("net", NETS)
def test_it_stays_near_and_is_half_as_large(net: str, dtype: torch.dtype) -> None:
    before, least = net_of(net), NETS[net][1]
    after = cast(before, dtype)
    verify(after)
    found = sqnr(before, after)
    print(f"{net} in {ids(dtype)}: {found:.1f} dB")
    assert found > least - (0 if dtype == torch.float16 else 18.1)  # three bits of eleven
    assert [t.dtype for _, t in results(after)] == [t.dtype for _, t in results(before)]
    sizes = [sum(t.nbytes for t in p.tensors().values() if t.is_floating_point()) for p in (before, after)]
    assert sizes[1] < 0.53 * sizes[0]
    norms = {
        str(n.target)
        for node in after.graph.nodes
        if kind(node) == "batch_norm"
        for n in node.all_input_nodes
        if n.op == "get_attr"
    }
    left = {name for name, t in after.tensors().items() if t.dtype == torch.float32} - norms
    assert {name.rpartition(".")[2] for name in left} <= {"inv_freq", "logit_scale"}


def kinds_in(program: graphc.Program, dtype: torch.dtype) -> set[str]:
    return {
        kind(node)
        for node in program.graph.nodes
        if node.op == "call_function" and getattr(node.meta.get("val"), "dtype", None) == dtype
    }


def test_llama_computes_in_float32_what_its_author_does() -> None:
    after = cast(net_of("llama"), torch.float16)
    norm = [node for node in after.graph.nodes if "input_layernorm" in str(node.meta.get("nn_module_stack"))]
    types = [(kind(n), n.meta["val"].dtype) for n in norm if n.op == "call_function" and "layers.0" in str(n.meta)]
    assert [name for name, dtype in types if dtype == torch.float32 and name != "to"] == [
        "pow",
        "mean",
        "add",
        "rsqrt",
        "mul",
    ]
    assert types[-1] == ("mul", torch.float16)
    assert {"cos", "sin"} <= kinds_in(after, torch.float32)
    assert {"linear", "softmax", "silu", "matmul"} <= kinds_in(after, torch.float16)


def test_places_in_a_long_text_stay_apart() -> None:
    """Half precision has no odd numbers above 2048, bfloat16 none above 256."""

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", 1 / 10000 ** (torch.arange(0, 8, 2) / 8))

        def forward(self, x: Tensor) -> Tensor:
            angles = torch.arange(x.shape[1]).float()[:, None] * self.frequencies
            return x * torch.cat([angles.sin(), angles.cos()], -1)

    before = graphc.capture(Rotary(), (torch.randn(2, 5000, 8),), dynamic={})
    for dtype, least in ((torch.float16, 60), (torch.bfloat16, 45)):
        assert sqnr(before, cast(before, dtype)) > least


def test_buckets_of_distances_are_the_same() -> None:
    before = net_of("t5 encoder")
    after = cast(before, torch.bfloat16)
    whole = [n.name for n in before.graph.nodes if kind(n) == "to" and n.meta["val"].dtype == torch.int64]
    read = [find.args[0].meta["val"].dtype for find in after.graph.nodes if find.name in whole]
    assert torch.float32 in read
    assert torch.bfloat16 not in read


class Masked(nn.Module):
    """Scores of which some rows are masked altogether, in one of the ways in which models do."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("least", torch.tensor(torch.finfo(torch.float32).min))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        least = torch.finfo(torch.float32).min
        if self.way == "added":
            x = x + (1.0 - mask.to(torch.float32)) * least
        elif self.way == "filled":
            x = x.masked_fill(mask == 0, least)
        elif self.way == "chosen":
            x = torch.where(mask == 0, self.least, x)
        elif self.way == "made":
            x = x + torch.full((1,), least) * (mask == 0)
        elif self.way == "integer":
            x = x.masked_fill(mask == 0, -1000000000)
        else:
            x = (x + (1.0 - mask.to(torch.float32)) * least).clamp(min=least)
        return torch.softmax(x, -1, dtype=torch.float32)


@pytest.mark.parametrize("dtype", HALVES, ids=ids)
@pytest.mark.parametrize("way", ["added", "filled", "chosen", "made", "integer", "clamped"])
def test_masks_stay_finite(way: str, dtype: torch.dtype) -> None:
    mask = torch.ones(4, 9, dtype=torch.int64)
    mask[1, 3:] = 0
    mask[2] = 0
    before = graphc.capture(Masked(way), (torch.randn(4, 9), mask), dynamic={})
    found = dict(results(cast(before, dtype)))["output"]
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, dict(results(before))["output"], atol=0.01, rtol=0.05)


def test_infinite_masks_stay_infinite() -> None:
    class Causal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x + torch.full((9, 9), -float("inf")).triu(1), -1)

    before = graphc.capture(Causal(), (torch.randn(9, 9),), dynamic={})
    found = dict(results(cast(before, torch.float16)))["output"]
    assert torch.equal(found.triu(1), torch.zeros(9, 9))


class Normalised(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-5, 3e3])
def test_norms_have_the_range_of_float32(scale: float) -> None:
    before = graphc.capture(Normalised(), (torch.randn(4, 500) * scale,), dynamic={})
    found = dict(results(cast(before, torch.float16)))["output"]
    torch.testing.assert_close(found, dict(results(before))["output"], atol=2e-3, rtol=2e-2)


def test_a_weight_out_of_range_is_named() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 1] = -1e5
    before = graphc.capture(model, (torch.randn(4, 3),))
    with pytest.raises(GraphError, match="out of the range of float16") as error:
        cast(before, torch.float16)
    assert error.value.where == "weight"
    assert "100000" in str(error.value)
    assert sqnr(before, cast(before, torch.bfloat16)) > 40


def test_a_value_out_of_range_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(300.0)
    before = graphc.capture(model, (torch.full((4, 3), 10.0),))
    with pytest.raises(GraphError, match="a value is out of the range of float16") as error:
        check_range(before, cast(before, torch.float16))
    assert "in 1" in error.value.where
    check_range(before, cast(before, torch.bfloat16))
    check_range(before, cast(before, torch.float16, {n.name for n in before.graph.nodes if kind(n) != "to"}))


def test_statistics_of_norms_stay() -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))
    model[1].running_var.fill_(1e6)
    before = graphc.capture(model, (torch.randn(4, 3, 5, 5) * 1e3,))
    after = cast(before, torch.float16)
    assert after.tensors()["1.running_var"].dtype == torch.float32
    assert sqnr(before, after) > 60


def test_a_tied_tensor_stays_one() -> None:
    before = programs.program("gpt2")
    after = cast(before, torch.float16)
    assert after.aliases == before.aliases
    assert set(after.tensors()) == set(before.tensors())
    assert all(t.dtype == torch.float16 for t in after.tensors().values() if t.is_floating_point())
    assert before.tensors()["transformer.wte.weight"].dtype == torch.float32


def test_what_has_no_kernel_in_half_precision_runs() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(F.relu(x)).abs() + torch.cdist(x, x)[..., :5]

    before = graphc.capture(Spectrum(), (torch.randn(2, 8, 8),), dynamic={})
    assert sqnr(before, cast(before, torch.bfloat16)) > 40


def test_parts_of_tuples_and_lists() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.state = nn.Parameter(torch.randn(24, 8)), nn.Parameter(torch.randn(24, 6))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            start = x.new_zeros(1, x.shape[0], 6)
            weights = [self.input, self.state]
            y, h, _ = torch.lstm(x, (start, start), weights, False, 1, 0.0, False, False, True)
            first, second = y.split([2, 4], -1)
            return torch.cat([first.exp(), second], -1), h.max(-1).values

    before = graphc.capture(models.seeded(Recurrent), (torch.randn(3, 5, 8),), dynamic={})
    assert sqnr(before, cast(before, torch.float16)) > 50


def test_wide_values_end_where_others_begin() -> None:
    class Softmax(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.value = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.query(x) @ x.transpose(1, 2)
            scores = (scores - scores.amax(-1, keepdim=True)).exp()
            return (scores / scores.sum(-1, keepdim=True)) @ self.value(x)

    before = graphc.capture(models.seeded(Softmax), (torch.randn(2, 5, 6),), dynamic={})
    wide = wide_values(before)
    assert {kind(node) for node in before.graph.nodes if node.name in wide} == {"sub", "exp", "sum", "div"}


@pytest.mark.parametrize("target", ["x.onnx", "x.pt2", "x/"])
def test_files(target: str, tmp_path: Path) -> None:
    before = programs.program("bert")
    after = cast(before, torch.float16)
    artifact = emit(after, f"{tmp_path}/{target}")
    if target == "x.onnx":
        assert artifact.error < 1e-3
        return
    assert artifact.error == 0
    read = load(artifact.path)
    assert names_of(read) == names_of(after)
    for (_, a), (_, b) in zip(results(read), results(after), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("target", ["x.onnx", "x.pt2", "x/"])
def test_files_are_half_as_large(target: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 512))
    before = graphc.capture(model, (torch.randn(3, 256),))
    whole = emit(before, f"{tmp_path}/whole{target[1:]}").bytes
    assert emit(cast(before, torch.float16), f"{tmp_path}/half{target[1:]}").bytes < 0.51 * whole


def test_the_pass(tmp_path: Path) -> None:
    before = models.residual()
    done = graphc.compile(
        before,
        passes=[Quantize(scheme="float16", min_sqnr_db=55.0, ignore=("head",))],
        data={"calibration": lambda: [before.example()[0][0]]},
        emit=["x.onnx", "x.pt2"],
        output_dir=tmp_path,
    )
    kept = [n for n in done.program.graph.nodes if kind(n) == "linear"]
    assert [n.meta["val"].dtype for n in kept] == [torch.float32]
    assert done.program.tensors()["head.weight"].dtype == torch.float32
    assert done.program.tensors()["conv1.weight"].dtype == torch.float16
    says = done.report["passes"][0]["facts"]["says"]
    assert says[0] == "float16 for onnxruntime-cpu, as the device is cpu"
    assert "float32 on CPUs" in says[1]
    assert "stem: weight float32 => float16, bias new => 12 float16" in done.report["passes"][0]["changes"]


def test_what_the_pass_refuses() -> None:
    before = models.residual()
    data = {"calibration": lambda: [before.example()[0][0]]}
    with pytest.raises(GraphError, match="bfloat16 does not hold 80 dB"):
        graphc.compile(before, passes=[Quantize(scheme="bfloat16", min_sqnr_db=80.0)], data=data)
    with pytest.raises(RecipeError, match="onnxruntime-cpu cannot run the scheme bfloat16"):
        Quantize(scheme="bfloat16", target="onnxruntime-cpu")
    with pytest.raises(RecipeError, match="float16 has no such option"):
        Quantize(scheme="float16", weight_method="gptq")
    after = cast(before, torch.float16)
    with pytest.raises(GraphError, match="nothing to make float16"):
        Quantize(scheme="float16").requires(after)
    with pytest.raises(EmitError, match="computes in float16"):
        to_module(after, models.seeded(models.Residual))
