from __future__ import annotations

from typing import Any

import pytest
import torch
from graphc.passes import PruneLayers
from graphc.passes.calibration import Calibration
from graphc.passes.layer_importance import LAYER_CRITERIA
from torch import Tensor, nn

import graphc
from graphc.coupling import analyze
from graphc.coupling.regions import find_layers
from graphc.errors import GraphError, RecipeError
from tests import models


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Stack(nn.Module):
    """An encoder of five blocks, a decoder of three, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Block(12) for _ in range(5))
        self.bridge = nn.Linear(12, 12)
        self.decoder = nn.ModuleList(Block(12) for _ in range(3))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.encoder:
            x = block(x)
        x = self.bridge(x)
        for block in self.decoder:
            x = block(x)
        return self.head(x.mean(1))


def stack() -> Stack:
    torch.manual_seed(0)
    model = Stack().eval()
    with torch.no_grad():
        for i, block in enumerate([*model.encoder, *model.decoder]):
            block.down.weight.mul_(0.3 + (i * 5) % 8)
    return model


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(n, 7, 12, generator=generator), torch.randint(0, 5, (n,), generator=generator)) for n in (4, 3)
    ]


def left(program: graphc.Program) -> list[str]:
    return [layer.name for layer in find_layers(analyze(program))]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("every second", ["encoder.0", "encoder.2", "encoder.4", "decoder.0", "decoder.2"]),
        ("first and last", ["encoder.0", "encoder.4", "decoder.0", "decoder.2"]),
    ],
)
def test_what_is_kept_is_kept_of_every_stack(keep: Any, expected: list[str]) -> None:
    program = graphc.capture(stack(), (data()[0][0],))
    assert left(graphc.compile(program, passes=[PruneLayers(keep=keep)]).program) == expected


def influence(model: Stack) -> list[float]:
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    blocks = [*model.encoder, *model.decoder]
    handles = [
        block.register_forward_hook(lambda m, args, out: seen.setdefault(m, []).append((args[0], out)))
        for block in blocks
    ]
    with torch.no_grad():
        for x, _ in data():
            model(x)
    for handle in handles:
        handle.remove()
    return [
        float(torch.cat([1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)) for a, b in seen[block]]).mean())
        for block in blocks
    ]


def saliency(model: Stack) -> list[float]:
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    nn.functional.cross_entropy(model(x), y).backward()
    return [
        float(torch.cat([(p * p.grad).abs().flatten() for p in block.parameters()]).detach().mean())
        for block in [*model.encoder, *model.decoder]
    ]


def weights(model: Stack, power: int) -> list[float]:
    return [
        float(torch.cat([p.detach().abs().flatten() for p in block.parameters()]).pow(power).mean() ** (1 / power))
        for block in [*model.encoder, *model.decoder]
    ]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("block_influence", influence),
        ("taylor", saliency),
        ("l1", lambda model: weights(model, 1)),
        ("l2", lambda model: weights(model, 2)),
    ],
)
def test_importance_of_layers(name: str, reference: Any) -> None:
    analysis = analyze(graphc.capture(stack(), (data()[0][0],)))
    layers = find_layers(analysis)
    assert [layer.name for layer in layers] == [f"encoder.{i}" for i in range(5)] + [f"decoder.{i}" for i in range(3)]
    found = LAYER_CRITERIA[name](analysis, layers, Calibration(data))
    expected = reference(stack())
    assert found == pytest.approx(expected, rel=1e-3)
    program = analysis.program
    done = graphc.compile(
        program, passes=[PruneLayers(pruning_ratio=0.25, importance=name)], data={"calibration": data()}
    ).program
    worst = sorted(range(8), key=expected.__getitem__)[:2]
    assert left(done) == [layer.name for i, layer in enumerate(layers) if i not in worst]


def test_influence_of_feature_maps_is_along_channels() -> None:
    model = models.randomise(models.Residual()).eval()
    analysis = analyze(graphc.capture(model, (torch.randn(3, 3, 16, 16),)))
    layers = find_layers(analysis)
    (found,) = LAYER_CRITERIA["block_influence"](analysis, layers, Calibration(lambda: [torch.ones(2, 3, 16, 16)]))
    program = analysis.program
    tap = {n.name: n for n in program.graph.nodes}
    values: list[Tensor] = []
    from graphc.ir.watch import run_watched

    watches = {tap[n.name]: lambda a, k, value: values.append(value) for n in (layers[0].entry, layers[0].exit)}
    run_watched(program, watches, (torch.ones(2, 3, 16, 16),))
    a, b = (v.detach().double() for v in values)
    expected = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert found == pytest.approx(float(expected.mean()), rel=1e-4)


def test_a_layer_that_changes_the_shape_is_refused_with_the_shapes() -> None:
    torchvision = pytest.importorskip("torchvision", reason="pip install torchvision")
    program = graphc.capture(torchvision.models.resnet18(weights=None), (torch.randn(3, 3, 64, 64),))
    with pytest.raises(RecipeError, match=r"'layer2.0' cannot be removed(?s:.)*64, 16, 16\] and gives \[.*128, 8, 8\]"):
        graphc.compile(program, passes=[PruneLayers(layers=("layer2.0",))])
    done = graphc.compile(program, passes=[PruneLayers(layers=("layer2.1",))]).program
    assert not any(name.startswith("layer2.1.") for name in done.tensors())


@pytest.mark.parametrize(
    ("suite", "name", "expected"),
    [
        ("transformers", "T5ForConditionalGeneration (sdpa)", ["encoder.block.1", "decoder.block.1"]),
        ("transformers", "OPTForCausalLM (sdpa)", ["model.decoder.layers.0", "model.decoder.layers.1"]),
        ("timm", "swin_tiny_patch4_window7_224", [f"layers.{i}.blocks.{j}" for i in range(4) for j in range(2)]),
    ],
)
def test_layers_are_what_their_authors_call_so(suite: str, name: str, expected: list[str]) -> None:
    """Not a block's attention alone, and also where tokens are laid out in rows on the way."""
    from benchmarks import coverage

    pytest.importorskip(suite, reason=f"pip install {suite}")
    (case,) = coverage.suite(suite, name)
    found = left(graphc.capture(case.build(), (), case.inputs, dynamic=case.dynamic))
    assert [layer for layer in found if not layer.startswith("layers.2.") or layer[-1] in "01"] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": ("encoder.9",)}, "matches nothing"),
        ({"keep": "every second", "targets": ("encoder.0",)}, "has nothing to remove"),
        ({"pruning_ratio": 0.5, "importance": "block_influence"}, "needs data called 'calibration'"),
        ({"pruning_ratio": 0.5, "ignore": ("re:.*",)}, "ignore leaves nothing"),
    ],
)
def test_what_cannot_be_removed(options: Any, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        graphc.compile(stack(), (data()[0][0],), passes=[PruneLayers(**options)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep": "every third"},
        {"pruning_ratio": 0.5, "importance": "lamp"},
        {"layers": (1,), "keep": "first and last"},
    ],
)
def test_wrong_options(options: Any) -> None:
    with pytest.raises(RecipeError):
        PruneLayers(**options)
