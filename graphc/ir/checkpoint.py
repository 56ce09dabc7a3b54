"""Checkpoints: folders and files of safetensors, in shards or in one, read tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from graphc.errors import GraphError, nearest
from graphc.ir.lazy import LazyTensor, Source

STEM, SUFFIX = "model", ".safetensors"
INDEX = ".index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
Sources = Mapping[str, Source]


def read_checkpoint(path: str | Path) -> dict[str, Source]:
    """Where every tensor of a checkpoint is, by name; no tensor is read.

    Args:
        path: a ``.safetensors`` file, an index of shards (``model.safetensors.index.json``), or a folder that has
            one of these, in the layout of Hugging Face.

    Raises:
        GraphError: there is none, a shard is missing or damaged, or the index names files outside its folder.
    """
    path = Path(path)
    file = _main_file(path) if path.is_dir() else path
    if not file.is_file():
        raise GraphError("the checkpoint does not exist", where=str(file), hint="give a folder or a .safetensors file")
    if file.name.endswith(INDEX):
        return _of_shards(file)
    if file.suffix != SUFFIX:
        hint = "save it as safetensors" + ("; graphc reads no pickle" if file.suffix in PICKLED else "")
        raise GraphError("the checkpoint cannot be read", where=str(file), why="it is no safetensors file", hint=hint)
    return _of_file(file)


def _main_file(folder: Path) -> Path:
    """The index of a folder, or its only file of tensors."""
    for name in (f"{STEM}{SUFFIX}{INDEX}", f"{STEM}{SUFFIX}"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob(f"*{SUFFIX}{INDEX}")) or sorted(folder.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLED]
        why = f"it has {', '.join(file.name for file in found[:4]) or 'no .safetensors file'}"
        hint = "give the file itself" if found else "save the weights as safetensors"
        why += f", and {pickled[0]}, which is a pickle and is not read" if pickled and not found else ""
        raise GraphError("the folder has no checkpoint, or several", where=str(folder), why=why, hint=hint)
    return found[0]


def _of_shards(index: Path) -> dict[str, Source]:
    what = "the index of the checkpoint cannot be read"
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(name) for name in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GraphError(what, where=str(index), why=f"{type(error).__name__}: {error}") from error
    outside = next((name for name in shards if Path(name).name != name or not name.endswith(SUFFIX)), None)
    if outside is not None:
        raise GraphError(what, where=str(index), why=f"{outside!r} is no .safetensors file beside it")
    found = {name: _of_file(index.parent / name) for name in shards}
    missing = next((key for key, name in places.items() if key not in found[name]), None)
    if missing is not None:
        raise GraphError(what, where=str(index), why=f"{places[missing]} has no {missing}, which it is said to have")
    return {key: found[name][key] for key, name in places.items()}


def _of_file(file: Path) -> dict[str, Source]:
    found: dict[str, Source] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - it is no dict
                value = opened.get_tensor(key)  # mapped: nothing is read
                found[key] = Source(file, key, tuple(value.shape), value.dtype)
    except (OSError, SafetensorError) as error:
        what, hint = "a file of the checkpoint cannot be read", "download or write it again"
        raise GraphError(what, where=str(file), why=str(error), hint=hint) from error
    return found


def find_sources(wanted: Mapping[str, Sequence[str]], known: Mapping[str, torch.Tensor], sources: Sources) -> Sources:
    """For each tensor of a model where a checkpoint has it.

    Args:
        wanted: all names of each tensor, by the one that counts; tied tensors have several.
        known: the tensors, for their shapes and dtypes.
        sources: of the checkpoint.

    Raises:
        GraphError: the checkpoint lacks one, or has it with another shape or dtype.
    """
    found: dict[str, Source] = {}
    for name, names in wanted.items():
        source = next((sources[one] for one in names if one in sources), None)
        if source is None:
            lacking = [one for one, others in wanted.items() if sources.keys().isdisjoint(others)]
            raise GraphError(
                f"the checkpoint has no {name}",
                why=f"{len(lacking)} of the model's {len(wanted)} tensors are not in it",
                hint=f"it must be of this model, with its names; {nearest(name, sources)}",
            )
        value = known[name]
        if (source.shape, source.dtype) != (tuple(value.shape), value.dtype):
            has, wants = (f"{str(d).removeprefix('torch.')}{list(s)}" for s, d in _forms(source, value))
            raise GraphError(
                f"the checkpoint does not fit the model at {name}",
                where=str(source),
                why=f"it has {has}, the model {wants}",
                hint="make the model with the sizes and the dtype of the checkpoint",
            )
        found[name] = source
    return found


def _forms(source: Source, value: torch.Tensor) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(source.shape, source.dtype), (tuple(value.shape), value.dtype)]


def load_checkpoint(model: torch.nn.Module, path: str | Path) -> None:
    """Fill a model from a checkpoint, whose names, shapes and dtypes must be its own.

    Raises:
        GraphError: the checkpoint lacks a tensor, or does not fit.
    """
    state = model.state_dict()
    sources = find_sources(names_of(model), state, read_checkpoint(path))
    with torch.no_grad():
        for name, source in sources.items():
            state[name].copy_(LazyTensor(source).read())


def names_of(model: torch.nn.Module) -> dict[str, list[str]]:
    """All names of each tensor that a model's checkpoint has, by the first."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        found.setdefault(first.setdefault(id(value), name), []).append(name)
    return found
