from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import graphc
from graphc.emitters.shards import bytes_of, write_tensors
from graphc.errors import EmitError
from graphc.ir import lazy
from graphc.ir.checkpoint import read_checkpoint
from graphc.ir.lazy import LazyTensor
from tests import models

TENSORS = {
    "b.weight": torch.randn(17, 5),
    "a.weight": torch.randn(9, 7).bfloat16(),
    "half ü": torch.randn(3).half(),
    "double": torch.randn(2, 2, dtype=torch.float64),
    "ids": torch.arange(5),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
}


@pytest.mark.parametrize("names", [list(TENSORS), ["b.weight"], ["a.weight", "ids", "scalar"], []])
def test_files_are_those_of_safetensors_byte_for_byte(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: TENSORS[name] for name in names}
    save_file(tensors, tmp_path / "reference.safetensors", metadata={"format": "pt"})
    reference = (tmp_path / "reference.safetensors").read_bytes()
    assert write_tensors(tensors, tmp_path, "5GB") == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == reference
    monkeypatch.setattr(lazy, "BLOCK", 50)
    stored = read_checkpoint(tmp_path / "reference.safetensors")
    (tmp_path / "lazy").mkdir()
    write_tensors({name: LazyTensor(stored[name]) for name in names}, tmp_path / "lazy", "5GB")
    assert (tmp_path / "lazy" / "model.safetensors").read_bytes() == reference


def test_shards_have_an_index_and_no_more_than_they_may(tmp_path: Path) -> None:
    files = write_tensors(TENSORS, tmp_path, 200)
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in TENSORS.values())
    for file in files:
        found = load_file(tmp_path / file)
        assert sum(value.nbytes for value in found.values()) <= 200 or len(found) == 1
        assert all(index["weight_map"][name] == file for name in found)
        assert all(torch.equal(value, TENSORS[name]) for name, value in found.items())
    assert index["weight_map"].keys() == TENSORS.keys()


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 1572864), (70, 70), ("9", 9)])
def test_sizes(text: str | int, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 apples", "-3GB", 0, "0KB"])
def test_what_is_no_size_is_refused(text: str | int, tmp_path: Path) -> None:
    program = graphc.capture(models.seeded(models.Residual), (torch.randn(4, 3, 7, 9),))
    with pytest.raises(EmitError, match=r"is no size[\s\S]*512MiB"):
        graphc.emit(program, tmp_path / "net", shard_size=text)
    assert not list(tmp_path.iterdir())


def test_no_room_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(100, 99, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(EmitError, match="no room for the weights"):
        write_tensors(TENSORS, tmp_path, "5GB")
    assert not list(tmp_path.iterdir())


def test_a_dtype_without_a_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmitError, match=r"cannot be written[\s\S]*complex"):
        write_tensors({"x": torch.zeros(2, dtype=torch.complex128)}, tmp_path, "5GB")


def test_a_folder_of_shards_is_loaded_again(tmp_path: Path) -> None:
    program = graphc.capture(models.seeded(models.Residual), (torch.randn(4, 3, 7, 9),))
    graphc.emit(program, tmp_path / "net", shard_size="2KB")
    assert len(list((tmp_path / "net").glob("model-*.safetensors"))) > 1
    again = graphc.load(tmp_path / "net")
    assert all(torch.equal(value, again.tensors()[name]) for name, value in program.tensors().items())
    (tmp_path / "net" / "model-00001-of-00007.safetensors").unlink(missing_ok=True)
    next((tmp_path / "net").glob("model-*.safetensors")).unlink()
    with pytest.raises(EmitError, match="damaged"):
        graphc.load(tmp_path / "net")
