from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, PruneHeads, PruneLayers
from graphc.passes.training.taps import find_regions, find_tap
from torch import Tensor, nn

import graphc
from graphc.errors import RecipeError
from graphc.ir.taps import tapped
from tests import models

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Tensor]]


def resnet() -> Made:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = models.randomise(torchvision.models.resnet18(weights=None).eval())
    return model, (torch.randn(2, 3, 40, 40),), {}


def vit() -> Made:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
    model = models.randomise(timm.models.VisionTransformer(**options).eval())
    return model, (torch.randn(2, 3, 32, 32),), {}


def swin() -> Made:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    options = {"patch_size": [4, 4], "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 4], "window_size": [3, 3]}
    return models.randomise(torchvision.models.SwinTransformer(**options).eval()), (torch.randn(2, 3, 44, 44),), {}


def text(build: Callable[[], tuple[nn.Module, dict[str, Tensor]]]) -> Callable[[], Made]:
    def make() -> Made:
        pytest.importorskip("transformers")
        model, kwargs = build()
        return model, (), kwargs

    return make


def t5() -> Made:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4)
    return models.seeded(lambda: transformers.T5EncoderModel(config)), (), {"input_ids": models.tokens(3, 11, 61)}


REAL: Mapping[str, tuple[Callable[[], Made], set[str], tuple[str, ...]]] = {
    "resnet": (resnet, set(), ("layer1.0", "layer3", "layer3.1.relu", "avgpool", "fc")),
    "vit": (vit, set(), ("blocks.0", "blocks.2.attn", "norm", "patch_embed", "head")),
    "swin": (swin, set(), ("features.1.1", "features.1.1.attn", "features.2", "features")),
    "bert": (
        text(models.tiny_bert),
        {"bert"},  # its first output is not used
        ("bert.encoder.layer.1", "bert.encoder.layer.1.attention", "bert.embeddings", "bert.encoder"),
    ),
    "gpt2": (text(models.tiny_gpt2), set(), ("transformer.h.0", "transformer.h.1.attn", "transformer", "lm_head")),
    "llama": (
        text(models.tiny_llama),
        {"model.rotary_emb"},  # gives two tables
        ("model.layers.0", "model.layers.1.mlp", "model.norm"),
    ),
    "t5": (t5, set(), ("encoder.block.0", "encoder.block.1.layer.0.SelfAttention")),
}


def first(value: Any) -> Tensor | None:
    return next((x for x in torch.utils._pytree.tree_leaves(value) if isinstance(x, Tensor)), None)


def hooked(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first tensor that each module gives, in its last call, before anything writes into it."""
    seen: dict[str, Tensor] = {}

    def see(name: str) -> Any:
        def hook(module: nn.Module, given: Any, value: Any) -> None:
            tensor = first(value)
            if tensor is not None:
                seen[name] = tensor.clone()

        return hook

    handles = [module.register_forward_hook(see(name)) for name, module in model.named_modules() if name]
    with torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", REAL)
def test_a_module_gives_what_a_hook_sees(name: str) -> None:
    make, other, named = REAL[name]
    model, args, kwargs = make()
    seen = hooked(model, args, kwargs)
    program = graphc.capture(model, args, kwargs)
    paths = list(find_regions(program.graph))
    assert set(named) <= set(paths) <= set(seen)
    with torch.no_grad():
        _, values = tapped(program, [find_tap(program, path).name for path in paths])(*args, **kwargs)
    different = {
        path
        for path, value in zip(paths, values, strict=True)
        if value.shape != seen[path].shape or not torch.allclose(value, seen[path], atol=1e-5, rtol=1e-4)
    }
    assert different == other


def test_after_pruning_filters_a_block_gives_the_same_places() -> None:
    model, args, _ = resnet()
    program = graphc.capture(model, args)
    pruned = PruneFilters(pruning_ratio=0.5).run(program, graphc.Context(program))
    for path in find_regions(program.graph):
        before, after = (find_tap(p, path).meta["val"].shape for p in (program, pruned))
        assert before[2:] == after[2:], path
        if path == "fc":
            assert before == after
        elif path.startswith("layer"):
            assert after[1] < before[1], path


def test_after_pruning_heads_and_layers() -> None:
    model, _, kwargs = text(models.tiny_bert)()
    program = graphc.capture(model, (), kwargs)
    heads = PruneHeads(pruning_ratio=0.5).run(program, graphc.Context(program))
    value = "bert.encoder.layer.0.attention.self"
    assert find_tap(program, value).meta["val"].shape[-1] == 32
    assert find_tap(heads, value).meta["val"].shape[-1] == 16
    assert find_tap(heads, "bert.encoder.layer.0").meta["val"].shape == find_tap(program, value).meta["val"].shape
    shorter = PruneLayers(layers=("bert.encoder.layer.1",)).run(program, graphc.Context(program))
    assert find_tap(shorter, "bert.encoder.layer.0") in find_tap(shorter, "bert.pooler.dense").all_input_nodes[0].args
    with pytest.raises(RecipeError, match=r"'bert\.encoder\.layer\.1'.*\n.*removed") as error:
        find_tap(shorter, "bert.encoder.layer.1")
    assert "'bert.encoder.layer.0'" in error.value.hint


class Called(nn.Module):
    """A layer called three times, a recurrent one, a module without effect, and one that gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.act = nn.ReLU()
        self.nothing = nn.Identity()
        self.recurrent = nn.LSTM(6, 5, batch_first=True)
        self.parts = Parts()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.act(self.shared(x))
        y, (hidden, _) = self.recurrent(self.nothing(x))
        a, b, table = self.parts(y)
        return (a * table).sum(1) + b.sum(1) + hidden[0, :, :2]


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, _ = self.first(x).split([2, 2, 2], -1)
        return a, b, torch.arange(2.0)


@pytest.mark.filterwarnings("ignore:.*were assigned during export:UserWarning")
def test_the_last_call_and_the_first_of_a_tuple() -> None:
    model = models.seeded(Called)
    x = torch.randn(4, 7, 6)
    program = graphc.capture(model, (x,))
    seen = hooked(model, (x,), {})
    paths = ["shared", "act", "recurrent", "parts", "parts.first"]
    with torch.no_grad():
        _, values = tapped(program, [find_tap(program, path).name for path in paths])(x)
    for path, value in zip(paths, values, strict=True):
        torch.testing.assert_close(value, seen[path])
    with pytest.raises(RecipeError, match="computes nothing"):
        find_tap(program, "nothing")


def test_an_axis_gives_the_value_where_its_units_are_read() -> None:
    program = models.residual()
    axis = next(a for a in graphc.find_axes(program) if ("conv1.weight", 0) in a.members)
    found = find_tap(program, axis.name)
    assert [user.target for user in found.users] == [torch.ops.aten.conv2d.default]
    assert "relu" in found.name
    assert found.meta["val"].shape[1] == axis.size == 24


def test_a_node_by_name_and_what_is_nothing() -> None:
    program = models.residual()
    assert find_tap(program, "conv2d_1").name == "conv2d_1"
    with pytest.raises(RecipeError, match="did you mean 'stem'"):
        find_tap(program, "stemm")
    with pytest.raises(RecipeError, match="no module, axis or node is called 'output'"):
        find_tap(program, "output")
