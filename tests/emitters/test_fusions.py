"""Files that are fused for onnxruntime: what is one op in them, and whether masks mean what they meant."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from graphc.passes.quantize.quantize import Quantize
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from graphc.emitters import emit, translations
from graphc.emitters.fusions import ATTENTION
from graphc.errors import EmitError, GraphError
from graphc.measure.placement import placement
from graphc.pipeline.recipe import recipe_schema
from tests import models
from tests.emitters.programs import language, program

LEAST = torch.finfo(torch.float32).min


def fused(given: graphc.Program, path: Path) -> graphc.emitters.Artifact:
    """Written, and equal at two sizes."""
    return emit(given, path, optimize="onnxruntime")


def ops(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def run(path: Path, *inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    results = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    return [torch.from_numpy(value) for value in results]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> graphc.emitters.Artifact:
    return fused(program("bert"), tmp_path_factory.mktemp("bert") / "x.onnx")


def test_bert_has_no_moves_left(bert: graphc.emitters.Artifact) -> None:
    counted = {"attention": 2, "layer_norm": 5, "gelu": 2, "sum_before_norm": 5}
    assert bert.facts == {"fusions": counted}
    assert bert.error < 1e-5
    found = ops(bert.path)
    assert (found["Attention"], found["Transpose"], found["Softmax"], found["Sum"]) == (2, 0, 0, 5)
    properties = {p.key: p.value for p in onnx.load(bert.path).metadata_props}
    assert json.loads(properties["graphc_fusions"]) == counted
    assert "com.microsoft.SkipLayerNormalization" not in placement(bert.path).ops


@pytest.mark.parametrize("hidden", [slice(9, None), slice(6), slice(None)], ids=["right", "left", "all"])
def test_padding(hidden: slice, bert: graphc.emitters.Artifact) -> None:
    _, inputs = program("bert").contract.resized(batch=3, seq=17)
    inputs["attention_mask"][1, hidden] = 0
    wanted = program("bert")(**inputs).logits.detach()
    torch.testing.assert_close(run(bert.path, *inputs.values())[0], wanted, rtol=1e-5, atol=1e-5)


def test_rotary_embeddings(tmp_path: Path) -> None:
    llama = fused(language(models.tiny_llama)[1], tmp_path / "llama.onnx")
    assert llama.facts["fusions"] == {"attention": 2, "rms_norm": 5, "rotary_embedding": 4}


class Attends(nn.Module):
    """Attention of one sequence to another under a mask of some shape and kind; turned, heads cannot be joined."""

    def __init__(
        self, mask: Callable[[Tensor], Tensor | None], key_heads: int = 4, causal: bool = False, turned: bool = False
    ) -> None:
        super().__init__()
        self.mask, self.causal, self.key_heads, self.turned = mask, causal, key_heads, turned
        self.query, self.key, self.value = nn.Linear(8, 24), nn.Linear(8, 6 * key_heads), nn.Linear(8, 5 * key_heads)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q = self.query(x).unflatten(2, (4, 6)).transpose(1, 2)
        k, v = (layer(y).unflatten(2, (self.key_heads, -1)).transpose(1, 2) for layer in (self.key, self.value))
        q, k = (q.sin(), k.cos()) if self.turned else (q, k)
        gqa = self.key_heads != 4 and not self.turned
        y = F.scaled_dot_product_attention(q, k, v, self.mask(y), is_causal=self.causal, scale=0.3, enable_gqa=gqa)
        return y.transpose(1, 2).flatten(2)


def padded(y: Tensor) -> Tensor:
    """The last number of a token says whether it is hidden; ``[batch, 1, 1, keys]``."""
    return (y[..., -1] > 0)[:, None, None]


def bias(y: Tensor, low: float) -> Tensor:
    return torch.where(padded(y), 0.5, low)


class Each(nn.Module):
    """All kinds of masks, one beside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(
            [
                Attends(lambda y: None),
                Attends(lambda y: None, causal=True),
                Attends(lambda y: None, key_heads=2),
                Attends(padded),
                Attends(padded, key_heads=1),
                Attends(lambda y: padded(y)[0, 0]),
                Attends(partial(bias, low=-torch.inf)),
                Attends(partial(bias, low=LEAST)),
                Attends(padded, key_heads=1, turned=True),
            ]
        )

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [kind(x, y) for kind in self.kinds]


def test_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, examples = Each(), (torch.randn(3, 5, 8), torch.randn(3, 7, 8))
    given = graphc.capture(net, examples, dynamic={"x": {0: "batch", 1: "m"}, "y": {0: "batch", 1: "n"}})
    assert fused(given, tmp_path / "x.onnx").facts["fusions"] == {"attention": len(net.kinds)}
    assert ops(tmp_path / "x.onnx")["Transpose"] == 4  # of the one whose heads are not joined
    x, y = torch.randn(4, 6, 8), torch.randn(4, 9, 8)
    y[1, :, -1], y[2, 0, -1] = -1, -1  # all hidden; the first hidden
    for wanted, found in zip(net(x, y), run(tmp_path / "x.onnx", x, y), strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-5, atol=1e-5)


def test_layers_of_torch(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(24, 4, 40, batch_first=True, activation="gelu").eval()
    given = graphc.capture(layer, (torch.randn(5, 7, 24),))
    assert fused(given, tmp_path / "x.onnx").facts["fusions"]["attention"] == 1
    assert ops(tmp_path / "x.onnx")["Transpose"] == 0


def test_integers_stay_fused(tmp_path: Path) -> None:
    data = [program("bert").contract.resized(batch=4, seq=9)[1] for _ in range(2)]
    quantize = Quantize(target="onnxruntime-cpu", smooth=0.0)
    made = graphc.compile(program("bert"), passes=[quantize], data={"calibration": data}, bench=None).program
    assert fused(made, tmp_path / "x.onnx").facts["fusions"]["attention"] == 2
    found = placement(tmp_path / "x.onnx")
    assert len(found.integer) == 14
    assert [name.split()[0] for name in found.floating] == ["Attention", "Attention"]
    assert found.unfused == ()


def test_nothing_to_fuse(tmp_path: Path) -> None:
    assert fused(program("residual"), tmp_path / "x.onnx").facts == {"fusions": {}}


def test_what_is_not_equal_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = translations.TRANSLATIONS[str(ATTENTION)]

    def wrong(query: Any, key: Any, value: Any, *rest: Any) -> Any:
        return right(query, key, key, *rest)

    monkeypatch.setitem(translations.TRANSLATIONS, str(ATTENTION), wrong)
    with pytest.raises(EmitError, match="not equal"):
        fused(program("bert"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimize": "onnx-runtime"}, "did you mean 'onnxruntime'"),
        ({"optimize": "onnxruntime", "opset_version": 20}, "give 23 or a higher one"),
    ],
)
def test_what_cannot_be_fused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(EmitError, match=message):
        emit(program("residual"), tmp_path / "x.onnx", **options)


def test_in_a_recipe(tmp_path: Path) -> None:
    assert recipe_schema()["properties"]["optimize"]["description"]
    recipe = {
        "model": {"target": "tests.models:Transformer"},
        "example_inputs": {"ids": {"shape": [3, 11], "dtype": "int64", "high": 37}},
        "emit": ["x.onnx", "x.pt2"],
        "optimize": "onnxruntime",
        "bench": None,
    }
    report = graphc.compile(recipe, output_dir=tmp_path).report
    assert report["artifacts"][0]["fusions"]["attention"] == 2
    assert "fusions" not in report["artifacts"][1]
    with pytest.raises(GraphError, match="no fusions for 'openvino'"):
        graphc.compile({**recipe, "optimize": "openvino"}, output_dir=tmp_path)
