"""The examples of shared layers, low rank and small decoders, each cut to seconds of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
pytest.importorskip("sklearn", reason="pip install scikit-learn")

import graphc

EXAMPLES = Path(__file__).parents[1] / "examples"
Compiled = Callable[..., graphc.Compilation]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiled:
    """Compiles an example with other arguments for the model and its last pass, which trains; writes no file."""

    def compile(name: str, model: dict[str, Any], **training: Any) -> graphc.Compilation:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        recipe = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
        recipe["model"]["kwargs"] = model
        recipe["passes"][-1] |= {"epochs": None, "steps": 2, **training}
        recipe["emit"] = []
        done = graphc.compile(recipe, output_dir=tmp_path)
        assert {step["type"] for step in recipe["passes"]} == {step["name"] for step in done.report["passes"]}
        return done

    return compile


def test_a_bert_becomes_an_albert(compiled: Compiled) -> None:
    done = compiled("albert", {"steps": 2})
    tensors, aliases = done.program.tensors(), done.program.aliases
    layer = 4 * (64 * 64 + 64) + 2 * 64 * 128 + 128 + 64 + 4 * 64
    assert sum(t.numel() for n, t in tensors.items() if n.startswith("bert.encoder.")) == layer
    assert aliases["bert.encoder.layer.3.output.dense.weight"] == "bert.encoder.layer.0.output.dense.weight"
    assert [tuple(t.shape) for t in tensors.values() if 52 in t.shape and t.dim() == 2] == [(52, 16)]
    assert done.report["compression_ratio"]["params"] > 3


def test_a_vision_transformer_of_low_rank(compiled: Compiled) -> None:
    done = compiled("low_rank_vit", {"epochs": 1})
    before, after = (done.report[key]["macs"] for key in ("before", "after"))
    assert 0.46 < after / before <= 0.5
    factors = [name for name in done.program.tensors() if name.endswith(".down.weight")]
    assert len(factors) > 10
    assert "classifier.weight" in done.program.tensors()


def test_a_decoder_becomes_shallower_and_narrower(compiled: Compiled) -> None:
    done = compiled("small_llama", {"steps": 2})
    tensors = done.program.tensors()
    assert tensors["model.embed_tokens.weight"].shape == (128, 48)
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    assert len(layers) == 3
    first = f"model.layers.{min(layers)}"
    assert tensors[f"{first}.self_attn.q_proj.weight"].shape == (32, 48)
    assert tensors[f"{first}.self_attn.k_proj.weight"].shape == (16, 48)
    assert tensors[f"{first}.mlp.up_proj.weight"].shape == (120, 48)
    assert "lm_head.weight" in done.program.aliases
