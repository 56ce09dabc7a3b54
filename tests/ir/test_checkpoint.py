from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graphc.errors import GraphError
from graphc.ir.checkpoint import load_checkpoint, names_of, read_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(4)}, tmp_path / "x-1.safetensors")
    save_file({"c": torch.ones(5)}, tmp_path / "x-2.safetensors")
    places = {"a": "x-1.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return tmp_path


def test_shards_of_a_folder_by_its_index(folder: Path) -> None:
    for path in (folder, folder / INDEX):
        found = read_checkpoint(path)
        assert {name: (source.path.name, source.shape) for name, source in found.items()} == {
            "a": ("x-1.safetensors", (2, 3)),
            "b": ("x-1.safetensors", (4,)),
            "c": ("x-2.safetensors", (5,)),
        }
    assert set(read_checkpoint(folder / "x-1.safetensors")) == {"a", "b"}


def test_the_only_file_of_a_folder(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert list(read_checkpoint(str(tmp_path))) == ["a"]


@pytest.mark.parametrize("place", ["../x-1.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin"])
def test_an_index_stays_in_its_folder(folder: Path, place: str) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(GraphError, match=r"no .safetensors file beside it"):
        read_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": 3}', "[" * 100_000])
def test_damaged_indices(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(GraphError, match="index of the checkpoint cannot be read"):
        read_checkpoint(folder)


def test_what_is_missing_or_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "x-1.safetensors").write_bytes((2**62).to_bytes(8, "little"))
    with pytest.raises(GraphError, match=r"file of the checkpoint cannot be read[\s\S]*x-1"):
        read_checkpoint(folder)
    save_file({"b": torch.zeros(4)}, folder / "x-1.safetensors")
    with pytest.raises(GraphError, match=r"x-1.safetensors has no a"):
        read_checkpoint(folder)
    (folder / "x-2.safetensors").unlink()
    with pytest.raises(GraphError, match=r"cannot be read[\s\S]*x-2"):
        read_checkpoint(folder)


def test_pickles_and_doubts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(GraphError, match="pickle and is not read"):
        read_checkpoint(tmp_path)
    with pytest.raises(GraphError, match="graphc reads no pickle"):
        read_checkpoint(tmp_path / "pytorch_model.bin")
    for name in "ab":
        save_file({"a": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(GraphError, match=r"a.safetensors, b.safetensors[\s\S]*give the file itself"):
        read_checkpoint(tmp_path)
    with pytest.raises(GraphError, match="does not exist"):
        read_checkpoint(tmp_path / "c.safetensors")


def net() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3), nn.BatchNorm1d(3))
    made[1].weight = made[0].weight
    return made


def test_a_model_is_filled_and_ties_may_be_stored_once(tmp_path: Path) -> None:
    wanted = net().state_dict()
    del wanted["0.weight"]
    save_file(wanted, tmp_path / "w.safetensors")
    model = net()
    assert names_of(model)["0.weight"] == ["0.weight", "1.weight"]
    load_checkpoint(model, tmp_path / "w.safetensors")
    assert torch.equal(model[0].weight, wanted["1.weight"])
    assert model[0].weight is model[1].weight
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items() if name in wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"1.bias": None}, ["has no 1.bias", "1 of the model's 7", "'2.bias'"]),
        ({"1.bias": torch.zeros(4)}, ["float32[4]", "the model float32[3]", "1.bias"]),
        ({"1.bias": torch.zeros(3).bfloat16()}, ["bfloat16[3]", "the model float32[3]", "dtype"]),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: dict[str, torch.Tensor | None], words: list[str]) -> None:
    stored = {name: value for name, value in {**net().state_dict(), **change}.items() if value is not None}
    del stored["0.weight"]
    save_file(stored, tmp_path / "w.safetensors")
    with pytest.raises(GraphError) as caught:
        load_checkpoint(net(), tmp_path / "w.safetensors")
    assert all(word in str(caught.value) for word in words), str(caught.value)
