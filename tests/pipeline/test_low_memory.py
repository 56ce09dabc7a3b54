from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import graphc
from graphc.errors import GraphError, RecipeError
from graphc.ir.lazy import LazyTensor, is_lazy
from graphc.pipeline.plan import captured, plan
from graphc.pipeline.recipe import read_recipe
from tests import models

FILES = ("model.py", "model.safetensors", "program.json", "example_inputs.safetensors")
IMAGES: dict[str, Any] = {"example_inputs": {"x": {"shape": [4, 3, 7, 9]}}}
TOKENS: dict[str, Any] = {"example_inputs": {"input_ids": {"shape": [3, 11], "dtype": "int64", "high": 90}}}


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a small network with batch norms."""
    model = models.seeded(models.Residual)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("residual") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "tied"])
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Hugging Face with several shards of bfloat16, the head tied to the embedding or not."""
    transformers = pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
    sizes = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    config = transformers.LlamaConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=request.param
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder, max_shard_size="30KB")
    return folder


def both(recipe: dict[str, Any], out: Path) -> tuple[graphc.Compilation, graphc.Compilation]:
    """The recipe with and without low memory; all files must be equal."""
    emit = {"emit": ["net/"]}
    lean = graphc.compile({**recipe, **emit, "low_memory": True}, output_dir=out / "lean")
    whole = graphc.compile({**recipe, **emit, "bench": None}, output_dir=out / "whole")
    for file in FILES:
        assert (out / "lean" / "net" / file).read_bytes() == (out / "whole" / "net" / file).read_bytes(), file
    for key in ("before", "after", "fidelity"):
        assert lean.report[key] == whole.report[key]
    assert is_lazy(lean.original.tensors())
    assert not is_lazy(whole.original.tensors())
    assert not (out / "lean" / "cache").exists()
    return lean, whole


def test_a_folder_of_hugging_face(llama: Path, tmp_path: Path) -> None:
    passes = [
        {"type": "prune-heads", "pruning_ratio": 0.5, "importance": "l1"},
        {"type": "prune-layers", "pruning_ratio": 0.34},
        {"type": "prune-width", "constraints": {"params": "70%"}, "ranking": "global", "mixed": True},
    ]
    lean, _ = both({"model": {"target": str(llama)}, **TOKENS, "passes": passes}, tmp_path)
    assert lean.report["after"]["params"] < 0.95 * lean.report["before"]["params"]
    assert lean.artifacts[0].error == 0
    tensors = lean.program.tensors()
    assert tensors["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert ("lm_head.weight" in tensors) != ("lm_head.weight" in lean.program.aliases)


def test_a_target_with_a_checkpoint(residual: Path, tmp_path: Path) -> None:
    passes = [
        {"type": "prune-filters", "filters": {"conv1": [0, 5, 7]}},
        {"name": "more", "type": "prune-filters", "pruning_ratio": 0.25, "importance": "random", "iterative_steps": 2},
        {"type": "select-outputs", "outputs": [0]},
    ]
    model = {"target": "tests.models:Residual", "checkpoint": str(residual)}
    lean, whole = both({"model": model, **IMAGES, "passes": passes}, tmp_path)
    assert torch.equal(lean.original.tensors()["norm.running_var"], whole.original.tensors()["norm.running_var"])
    assert float(whole.original.tensors()["norm.running_var"].min()) >= 0.5
    again = tmp_path / "again"
    folder = {"target": str(tmp_path / "lean" / "net")}
    done, _ = both({"model": folder, "passes": [{"type": "prune-filters", "pruning_ratio": 0.25}]}, again)
    assert done.report["before"] == lean.report["after"]
    assert len(done.program.history) == 4


def test_no_more_than_one_weight_is_in_memory(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, peaks = dict[int, int](), list[int]()
    original = LazyTensor.rows

    def rows(self: LazyTensor, start: int, stop: int) -> torch.Tensor:
        found = original(self, start, stop)
        alive[id(found)] = found.nbytes
        weakref.finalize(found, alive.pop, id(found))
        peaks.append(sum(alive.values()))
        return found

    monkeypatch.setattr(LazyTensor, "rows", rows)
    recipe = {"model": {"target": str(llama)}, **TOKENS, "passes": [{"type": "prune-width", "pruning_ratio": 0.5}]}
    done = graphc.compile({**recipe, "emit": ["net/"], "low_memory": True}, output_dir=tmp_path)
    largest = max(value.nbytes for value in done.original.tensors().values())
    total = sum(value.nbytes for value in done.original.tensors().values())
    assert len(peaks) > 100
    assert max(peaks) <= largest < total / 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"passes": [{"type": "quantize"}]}, ["quantize cannot run", "passes[0]", "many weights"]),
        (
            {"passes": [{"type": "prune-filters", "pruning_ratio": 0.5, "importance": "taylor"}], "data": {}},
            ["prune-filters cannot run", "importance: taylor", "l2"],
        ),
        ({"passes": [{"type": "prune-filters", "pruning_ratio": 0.5, "importance": "fpgm"}]}, ["importance: fpgm"]),
        ({"passes": [{"type": "prune-filters", "constraints": {"latency_ms": 1}}]}, ["constraints: latency_ms"]),
        (
            {"passes": [{"type": "prune-filters", "pruning_ratio": 0.5, "between": [{"type": "tie-weights"}]}]},
            ["tie-weights may hold"],
        ),
        (
            {"passes": [{"type": "prune-layers", "pruning_ratio": 0.5, "importance": "block_influence"}]},
            ["prune-layers cannot run", "importance: block_influence", "l1, l2"],
        ),
        ({"emit": ["net.onnx"]}, ["emit", "net.onnx", "folder"]),
        ({"metric": "accuracy"}, ["metric", "every batch"]),
        ({"bench": {"threads": 2}}, ["bench", "leave out bench"]),
        ({"cache_dir": "cache"}, ["cache_dir, resume"]),
        ({"model": {"target": "tests.models:Residual", "part": "conv1"}}, ["model.part"]),
        ({"model": {"target": "tests.models:Residual"}}, ["needs a checkpoint", "model.checkpoint"]),
        ({"model": {"target": "net.pt2"}}, ["cannot read the model 'net.pt2'"]),
        ({"model": {"target": "tests.models:tokens", "checkpoint": "W"}}, ["gives no module", "Tensor"]),
    ],
)
def test_what_needs_all_weights_is_refused_before_anything_runs(
    change: dict[str, Any], words: list[str], residual: Path, tmp_path: Path
) -> None:
    model = {"target": "tests.models:Residual", "checkpoint": str(residual)}
    recipe = {"model": model, **IMAGES, "low_memory": True, **change}
    if recipe["model"].get("checkpoint") == "W":
        recipe["model"] = {**recipe["model"], "checkpoint": str(residual)}
    with pytest.raises(GraphError) as caught:
        plan(read_recipe(recipe), tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_devices_and_resuming_are_refused(residual: Path, tmp_path: Path) -> None:
    model = {"target": "tests.models:Residual", "checkpoint": str(residual)}
    recipe = read_recipe({"model": model, **IMAGES, "low_memory": True})
    with pytest.raises(RecipeError, match="device does not go with low_memory"):
        plan(recipe, tmp_path, "cuda")
    with pytest.raises(RecipeError, match="resume does not go with low_memory"):
        plan(recipe, tmp_path, resume=True)


def test_passes_on_programs_in_files_are_checked_without_a_recipe_too(residual: Path) -> None:
    from graphc.passes import TieWeights

    part = graphc.capture_lazily(models.Residual, residual, (models.image(),))
    with pytest.raises(RecipeError, match="tie-weights cannot run where weights stay in their files"):
        graphc.compile(part, passes=[TieWeights()])


def test_what_a_folder_of_hugging_face_is_made_with(llama: Path) -> None:
    recipe = {"model": {"target": str(llama), "kwargs": {"attn_implementation": "eager"}}, **TOKENS, "low_memory": True}
    assert "softmax" in str(captured(read_recipe(recipe)))
    with pytest.raises(GraphError, match=r"bfloat16\[90, 32\], the model float32\[90, 32\]"):
        captured(read_recipe({**recipe, "model": {"target": str(llama), "kwargs": {"dtype": "float32"}}}))
    with pytest.raises(RecipeError, match="does not know 'device_map'"):
        captured(read_recipe({**recipe, "model": {"target": str(llama), "kwargs": {"device_map": "auto"}}}))


def test_a_checkpoint_needs_a_module(residual: Path, tmp_path: Path) -> None:
    graphc.emit(graphc.capture(models.seeded(models.Residual), (models.image(),)), tmp_path / "net.pt2")
    model = {"target": str(tmp_path / "net.pt2"), "checkpoint": str(residual)}
    with pytest.raises(RecipeError, match="takes no checkpoint"):
        captured(read_recipe({"model": model}))
