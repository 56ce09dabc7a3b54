"""Shards: tensors written as safetensors, one block after the other, in one file or several with an index.

The libraries write what is in memory. Here the header goes first, as all sizes are known, and then each tensor
as it is read, so that what is in memory is a block. Files are those of ``safetensors.torch.save_file``, byte for
byte, and several of them are in the layout of Hugging Face.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save

from graphc.emitters.staging import room
from graphc.errors import EmitError
from graphc.ir.checkpoint import INDEX, STEM, SUFFIX
from graphc.ir.lazy import LazyTensor

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
ALIGNED = 8
"""A header's length is a multiple of this, so that tensors start where their dtype may."""
ORDER = "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64".split()
"""Of the tensors in a file, from the last to the first."""
SHARD_SIZE = "5GB"
METADATA = {"format": "pt"}

Tensors = Mapping[str, torch.Tensor]


def bytes_of(size: int | str) -> int:
    """A size in bytes: a number, or text like ``5GB`` and ``512MiB``.

    Raises:
        EmitError: it is none, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    unit = UNITS.get(found[2].upper()) if found else None
    number = int(float(found[1]) * unit) if found and unit else 0
    if number < 1:
        raise EmitError(f"{size!r} is no size", where="shard_size", hint="write 5GB, 512MiB or a number of bytes")
    return number


def write_tensors(tensors: Tensors, folder: Path, shard_size: int | str) -> list[str]:
    """Write tensors into a folder: ``model.safetensors``, or shards and their index where they are larger.

    Args:
        tensors: by name; lazy ones are read block by block.
        folder: where the files go.
        shard_size: the most bytes of tensors in one file; one tensor is never divided.

    Returns:
        The names of the files of tensors.

    Raises:
        EmitError: there is no room, or a dtype has no place in the format.
    """
    total = sum(value.nbytes for value in tensors.values())
    room(folder, total, "the weights")
    shards = _divided(tensors, bytes_of(shard_size))
    many = f"{STEM}-{{:05}}-of-{len(shards):05}{SUFFIX}"
    files = [f"{STEM}{SUFFIX}"] if len(shards) == 1 else [many.format(i) for i in range(1, len(shards) + 1)]
    for name, shard in zip(files, shards, strict=True):
        with (folder / name).open("wb") as file:
            write_file(shard, file)
    if len(shards) > 1:
        places = {key: name for name, shard in zip(files, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / f"{STEM}{SUFFIX}{INDEX}").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _divided(tensors: Tensors, most: int) -> list[Tensors]:
    """Tensors in their order, as many in each part as fit."""
    parts: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, value in tensors.items():
        if parts[-1] and filled + value.nbytes > most:
            parts.append({})
            filled = 0
        parts[-1][name] = value
        filled += value.nbytes
    return list(parts)


def write_file(tensors: Tensors, file: BinaryIO) -> None:
    """Write one safetensors file: a header of names, dtypes, shapes and places, then the tensors."""
    ordered = sorted(tensors.items(), key=_place)
    header: dict[str, Any] = {"__metadata__": METADATA}
    place = 0
    for name, value in ordered:
        ends = [place, place + value.nbytes]
        header[name] = {"dtype": _word(value.dtype), "shape": list(value.shape), "data_offsets": ends}
        place = ends[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, value in ordered:
        for block in _blocks(value):
            file.write(block.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del block  # before the next one is read


def _place(item: tuple[str, torch.Tensor]) -> tuple[int, int, str]:
    """Wide dtypes come first, so that every tensor is aligned."""
    name, value = item
    word = _word(value.dtype)
    return -value.itemsize, -ORDER.index(word) if word in ORDER else 0, name


def _blocks(value: torch.Tensor) -> Iterable[torch.Tensor] | Iterator[torch.Tensor]:
    return value.blocks() if isinstance(value, LazyTensor) else [value]


@cache
def _word(dtype: torch.dtype) -> str:
    """What the format calls a dtype, asked of the library.

    Raises:
        EmitError: it has no word for it.
    """
    try:
        written = save({"x": torch.zeros(1, dtype=dtype)})
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise EmitError("the tensors cannot be written", where=str(dtype), why=f"safetensors has no {error}") from error
    length = int.from_bytes(written[:8], "little")
    found: str = json.loads(written[8 : 8 + length])["x"]["dtype"]
    return found
