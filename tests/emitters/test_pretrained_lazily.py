from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

import transformers
from graphc.passes import PruneLayers, PruneWidth

import graphc
from graphc.errors import EmitError
from graphc.ir.hollow import default_dtype
from graphc.ir.lazy import LazyTensor

SIZES = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def test_a_model_in_files_becomes_a_folder_of_its_class(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True, dtype="bfloat16")
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "old")

    def make() -> torch.nn.Module:
        with default_dtype(torch.bfloat16):
            return transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(tmp_path / "old"))

    inputs = {"input_ids": torch.randint(0, 90, (3, 11))}
    program = graphc.capture_lazily(make, tmp_path / "old", (), inputs)
    original = graphc.open_model(make, tmp_path / "old")
    assert all(isinstance(value, LazyTensor) for value in original.parameters())
    passes = [PruneWidth(pruning_ratio=0.5), PruneLayers(layers=(1,))]
    done = graphc.compile(program, passes=passes).program
    artifact = graphc.save_pretrained(done, original, tmp_path / "new")
    assert artifact.error == 0
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert (loaded.config.num_hidden_layers, loaded.config.intermediate_size) == (2, 24)
    assert loaded.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(loaded(**inputs, use_cache=False).logits, done(**inputs).logits)
    assert "lm_head.weight" not in load_file(tmp_path / "new" / "model.safetensors")
    ragged = graphc.slice(done, {"model.layers.0.mlp.gate_proj.out": range(10)})
    with pytest.raises(EmitError, match="config cannot make these sizes"):
        graphc.save_pretrained(ragged, original, tmp_path / "ragged")
    assert not (tmp_path / "ragged").exists()
