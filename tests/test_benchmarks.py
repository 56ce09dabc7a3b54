"""A small slice of each benchmark, so that none can rot."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
pytest.importorskip("torchvision", reason="pip install 'graphc[vision]'")

from benchmarks import analysis, detection, models, soundness


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x1_0"])
def test_soundness_of_vision_models(name: str) -> None:
    result = soundness.prove(models.vision(name))
    assert soundness.good(result), result
    assert result.axes > 20


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", models.TEXT)
def test_soundness_of_transformers(name: str, attention: str) -> None:
    result = soundness.prove(models.transformer(name, attention))
    assert soundness.good(result), result


def test_analysis_of_a_model_without_memory() -> None:
    name, nodes, axes, *_ = analysis.measure(analysis.large_llama(layers=2), repeat=1)
    assert name == "llama 70B shape"
    assert int(nodes) > 100
    assert int(axes) >= 2 * 4


def test_detection_with_a_part_of_a_detector() -> None:
    result = detection.prove(
        "fasterrcnn_mobilenet_v3_large_320_fpn", only=["rpn.head", "roi_heads.box_head"], quick=True
    )
    assert detection.good(result), result
    assert result.axes == 2
