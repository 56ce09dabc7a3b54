"""Folders that ``from_pretrained`` loads: the config must make every size, and the reloaded model the program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from graphc.emitters.base import Artifact
from graphc.emitters.configuration import is_configured, misfits, renumbered_fields
from graphc.emitters.equality import Equality, compare
from graphc.emitters.module import to_module
from graphc.emitters.shards import SHARD_SIZE, write_tensors
from graphc.emitters.staging import check_writable, size_of, staged
from graphc.errors import EmitError
from graphc.ir.capture import evaluating
from graphc.ir.checkpoint import names_of, read_checkpoint
from graphc.ir.hollow import default_dtype, open_model
from graphc.ir.lazy import is_lazy
from graphc.ir.program import Program

KIND = "pretrained"
PLAIN = (bool, int, float, str, type(None))
OWN = ("training", "name_or_path")
"""Attributes that say nothing about what a model computes."""


def save_pretrained(program: Program, original: nn.Module, path: str | Path, *, tolerance: float = 1e-4) -> Artifact:
    """Write a folder from which the original's class loads the program with ``from_pretrained``.

    The program goes back into the original's class (``to_module``), its config must make a model of
    exactly these sizes, and the folder is loaded again and run beside the program at two sizes. It
    appears only then.

    Args:
        original: the Hugging Face model that the program was captured from.
        path: a new or an empty folder.
        tolerance: largest relative error that counts as equal.

    Raises:
        EmitError: the class or its config cannot express the program (names what cannot: layers of
            different sizes, heads narrower than ``hidden_size / num_attention_heads``), the reloaded
            model is not equal to it, or the folder cannot be written.
    """
    path = Path(path)
    if not is_configured(original):
        raise EmitError(
            f"{type(original).__name__} is no Hugging Face model",
            where=str(path),
            why="it has no config, save_pretrained and from_pretrained",
            hint="give the model that from_pretrained or its class made, or use to_module, or emit a folder",
        )
    check_writable(path)
    module: Any = to_module(program, original, tolerance=tolerance)
    _refuse("its config cannot make these sizes", module, misfits(module))
    explained = renumbered_fields(original.config, module.config)
    with staged(path) as inside:
        lazy = is_lazy(program.tensors())
        (_save_lazily if lazy else type(module).save_pretrained)(module, inside)
        loaded = (_loaded_lazily if lazy else _loaded)(type(module), inside)
        _refuse("its config makes other attributes", module, _other_attributes(module, loaded, explained))
        equality = _prove(program, loaded, tolerance, path.name)
    return Artifact(path, size_of(path), KIND, equality.error, equality.sizes)


def _refuse(what: str, module: nn.Module, differences: Sequence[str]) -> None:
    if not differences:
        return
    shown = "; ".join(differences[:4]) + (f"; ... ({len(differences)} in all)" if len(differences) > 4 else "")
    raise EmitError(
        f"{type(module).__name__} cannot be loaded by from_pretrained as the program",
        where=type(getattr(module, "config", None)).__name__,
        why=f"{what}: {shown}",
        hint="cut all layers alike and keep to what the config has a field for, or use to_module, which needs no "
        "config, or emit a folder or a .pt2 file",
    )


def _loaded(kind: Any, folder: Path) -> nn.Module:
    try:
        model: nn.Module = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # every failure of a foreign loader becomes one EmitError
        raise EmitError(
            f"{kind.__name__} does not load again",
            where=folder.name,
            why=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
            hint="use to_module, which needs no config, or emit a folder or a .pt2 file",
        ) from error
    return model


def _save_lazily(module: Any, folder: Path) -> None:
    """Write what ``save_pretrained`` writes, with weights block by block, tied ones once."""
    folder.mkdir()
    module.config.architectures = [type(module).__name__]
    for config in (module.config, getattr(module, "generation_config", None)):
        if config is not None:
            config.save_pretrained(folder)
    state = module.state_dict()
    write_tensors({name: state[name] for name in names_of(module)}, folder, SHARD_SIZE)


def _loaded_lazily(kind: Any, folder: Path) -> nn.Module:
    """The model that ``from_pretrained`` makes, with its weights left in their files."""
    config, sources = kind.config_class.from_pretrained(folder), read_checkpoint(folder)
    dtype = next(source.dtype for source in sources.values() if source.dtype.is_floating_point)

    def make() -> nn.Module:
        with default_dtype(dtype):
            made: nn.Module = kind(config)
            return made

    return open_model(make, sources)


def _prove(program: Program, loaded: nn.Module, tolerance: float, name: str) -> Equality:
    try:
        with evaluating(loaded):
            return compare(program, lambda args, kwargs: loaded(*args, **kwargs), tolerance, f"{name}, loaded again")
    except EmitError as error:
        raise EmitError(
            f"{type(loaded).__name__} cannot be loaded by from_pretrained as the program",
            where=error.where,
            why=f"what from_pretrained loads is not equal: {error.why}",
            hint="it works values out of its config that the program has cut, as rotary positions from the width of "
            "heads: leave these whole, or use to_module, or emit a folder or a .pt2 file",
        ) from error


def _other_attributes(module: nn.Module, loaded: nn.Module, explained: set[tuple[Any, Any]]) -> list[str]:
    """Numbers and words that the reloaded model's parts hold differently: windows, scales, kinds of a layer.

    Args:
        explained: (old, new) values of the config's fields: what repeats those may differ.
    """
    parts = dict(loaded.named_modules())
    found: list[str] = []
    for path, part in module.named_modules():
        other = vars(parts[path]) if path in parts else {}
        for name, value in vars(part).items():
            given = other.get(name, value)
            plain = isinstance(value, PLAIN) and isinstance(given, PLAIN) and value != given
            if plain and name not in OWN and not name.startswith("_") and (value, given) not in explained:
                found.append(f"{path}.{name} is {value!r}, the config makes {given!r}")
    return found
