"""Folders that from_pretrained loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

from graphc.passes import PruneHeads, PruneLayers, PruneWidth  # noqa: E402

import graphc  # noqa: E402 - after the check that transformers is there
from benchmarks import models, writeback  # noqa: E402
from graphc.errors import EmitError  # noqa: E402

BOTH = {0: "batch", 1: "sequence"}
SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 44,
    "pad_token_id": 0,
}


def captured(build: str, **config: object) -> tuple[nn.Module, graphc.Program]:
    torch.manual_seed(0)
    kind = getattr(transformers, f"{build}Config")
    model = models.randomise(getattr(transformers, f"{build}ForCausalLM")(kind(**{**SMALL, **config})).eval())
    ids = torch.randint(0, 50, (3, 7))
    return model, graphc.capture(model, (), {"input_ids": ids}, dynamic={"input_ids": BOTH})


def pruned(program: graphc.Program, *passes: graphc.Pass) -> graphc.Program:
    return graphc.compile(program, passes=passes).program


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("bert", "width, layers"),
        ("bert", "heads"),
        ("vit", "heads, width, layers"),
        ("llama", "heads, width, layers"),
        ("llama", "hidden size"),
        ("gpt2", "width, layers"),
        ("gpt2", "hidden size"),
    ],
)
def test_uniform_cuts(name: str, cut: str) -> None:
    own, folder = writeback.prove(name, cut)
    assert own.params[1] < 0.9 * own.params[0]
    assert writeback.good(own), own
    assert writeback.good(folder), folder
    assert bool(folder.refused) is ((name, cut) in writeback.UNSAID)


def test_the_folder_is_reported_and_loads_by_the_auto_class(tmp_path: Path) -> None:
    model, program = captured("Llama", num_hidden_layers=2)
    smaller = pruned(program, PruneWidth(pruning_ratio=0.5))
    artifact = graphc.save_pretrained(smaller, model, tmp_path / "model")
    assert (artifact.kind, artifact.path, len(artifact.sizes)) == ("pretrained", tmp_path / "model", 2)
    assert artifact.error < 1e-6
    assert artifact.bytes > (tmp_path / "model" / "model.safetensors").stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (loaded.config.intermediate_size, model.config.intermediate_size) == (22, 44)


def test_kinds_of_layers_follow_the_layers_that_stay(tmp_path: Path) -> None:
    model, program = captured("Gemma2", num_hidden_layers=4, head_dim=8, sliding_window=3)
    smaller = pruned(program, PruneLayers(layers=("model.layers.1", "model.layers.2")))
    graphc.save_pretrained(smaller, model, tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.num_hidden_layers, config.layer_types) == (2, ["sliding_attention", "full_attention"])
    assert len(model.config.layer_types) == 4


class Wrapped(nn.Module):
    """A model of the user's own around one from Hugging Face."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids=ids).logits


def test_a_model_inside_has_its_config_restated() -> None:
    inner, _ = captured("Gemma2", num_hidden_layers=4, head_dim=8, sliding_window=3)
    model = Wrapped(inner)
    program = graphc.capture(model, (torch.randint(0, 50, (3, 7)),), dynamic={"ids": BOTH})
    layers = PruneLayers(layers=("inner.model.layers.0", "inner.model.layers.3"))
    back = graphc.to_module(pruned(program, layers, PruneWidth(pruning_ratio=0.5)), model)
    config = back.inner.config
    assert (config.layer_types, config.intermediate_size) == (["full_attention", "sliding_attention"], 22)
    assert back.inner.model.config is config


def test_a_kind_that_no_input_shows_is_refused(tmp_path: Path) -> None:
    """Layers with a window of 512 and without one are equal on 7 tokens; the attribute tells them apart."""
    options = {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 1}
    model, program = captured("Qwen2", num_hidden_layers=2, **options)
    module = model.model.layers[0].self_attn
    module.sliding_window = 512
    with pytest.raises(EmitError, match="from_pretrained") as caught:
        graphc.save_pretrained(pruned(program, PruneWidth(pruning_ratio=0.5)), model, tmp_path / "model")
    assert "model.layers.0.self_attn.sliding_window is 512, the config makes None" in caught.value.why
    assert list(tmp_path.iterdir()) == []


def test_layers_that_differ_are_named(tmp_path: Path) -> None:
    model, program = captured("Llama", num_hidden_layers=3)
    axis = next(a for a in graphc.find_axes(program) if ("model.layers.1.mlp.up_proj.weight", 0) in a.members)
    smaller = graphc.slice(program, {axis: range(11)})
    assert graphc.to_module(smaller, model).config.intermediate_size == 44
    with pytest.raises(EmitError, match="from_pretrained") as caught:
        graphc.save_pretrained(smaller, model, tmp_path / "model")
    told = "model.layers.*.mlp.up_proj.weight (* = 1) is [11, 32], the config makes [44, 32]"
    assert told in caught.value.why
    assert list(tmp_path.iterdir()) == []


def test_a_head_width_that_positions_depend_on_is_refused(tmp_path: Path) -> None:
    model, program = captured("Llama", num_hidden_layers=2)
    widths = [a for a in graphc.find_axes(program) if "head_dim" in a.roles and a.pinned is None]
    smaller = graphc.slice(program, {axis: range(0, axis.size, 2) for axis in widths})
    with pytest.raises(EmitError, match="from_pretrained") as caught:
        graphc.save_pretrained(smaller, model, tmp_path / "model")
    assert "from_pretrained loads is not equal" in caught.value.why or "scaling" in caught.value.why
    assert list(tmp_path.iterdir()) == []


def test_fused_projections_with_grouped_queries(tmp_path: Path) -> None:
    """No attribute says in which rows the keys are: their number is found by comparison."""
    model, program = captured("Phi3", num_hidden_layers=2)
    smaller = pruned(program, PruneHeads(pruning_ratio=0.5))
    graphc.save_pretrained(smaller, model, tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)


def test_only_hugging_face_models_and_new_folders(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    program = graphc.capture(model, (torch.randn(5, 3),))
    with pytest.raises(EmitError, match="Linear is no Hugging Face model"):
        graphc.save_pretrained(program, model, tmp_path / "model")
    (tmp_path / "mine.txt").write_text("mine")
    model, program = captured("Llama", num_hidden_layers=1)
    with pytest.raises(EmitError, match="would replace a folder"):
        graphc.save_pretrained(program, model, tmp_path)
