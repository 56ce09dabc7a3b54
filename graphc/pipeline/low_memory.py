"""Low memory: compile where all weights stay in their files, and at most one is in memory at a time.

The model is built without memory, traced, and bound to a checkpoint: its tensors are lazy (``graphc.ir.lazy``).
What would need all weights, or would read them over and over, is refused before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphc.emitters.base import make_emitter
from graphc.emitters.folder import FolderEmitter
from graphc.emitters.staging import MARK
from graphc.errors import RecipeError
from graphc.ir.checkpoint import Sources, read_checkpoint
from graphc.ir.hollow import capture_lazily, default_dtype
from graphc.ir.program import Program
from graphc.pipeline.base import Pass
from graphc.pipeline.recipe import Recipe
from graphc.pipeline.targets import call_target, class_of_folder

HERE = "low_memory"


def check_low_memory(recipe: Recipe, passes: Sequence[Pass], device: str = "cpu", keeps: bool = False) -> None:
    """See that a recipe asks for nothing that would need all weights in memory.

    Args:
        recipe: has ``low_memory``.
        passes: of the recipe.
        device: where passes run.
        keeps: are results of passes asked for or to be kept (``resume``, ``cache_dir``)?

    Raises:
        RecipeError: it does; names the option, or the pass and its option.
    """
    check_passes(passes)
    for name in recipe.emit:
        if not make_emitter(name, {}).lazy:
            raise _refused("emit", f"{name} is written from memory", "emit a folder (model/), written in blocks")
    bench = recipe.bench if "bench" in recipe.model_fields_set else None
    asked = {
        "model.part": (recipe.model.part, "a part is captured by running the model"),
        "metric": (recipe.metric, "every batch would read all weights"),
        "bench": (bench, "every run would read all weights"),
        "cache_dir, resume": (keeps, "results of passes are kept with their weights; here a pass takes seconds"),
        "device": (device != "cpu", "weights are read to the CPU"),
    }
    for option, (given, why) in asked.items():
        if given:
            raise _refused(option, why, f"leave out {option}, or {HERE}")


def check_passes(passes: Sequence[Pass]) -> None:
    """See that no pass needs all weights in memory.

    Raises:
        RecipeError: one does; names it and the option.
    """
    for i, item in enumerate(passes):
        why = item.needs_memory()
        if why:
            what = f"the pass {item.title} cannot run where weights stay in their files"
            hint = f"leave out {HERE}, or choose what needs no more than one weight at a time"
            raise RecipeError(what, where=f"passes[{i}]", why=why, hint=hint)


def _refused(option: str, why: str, hint: str) -> RecipeError:
    return RecipeError(f"{option} does not go with {HERE}", where=option, why=why, hint=hint)


def captured_lazily(recipe: Recipe) -> Program:
    """The recipe's model as a Program of lazy tensors.

    Raises:
        GraphError: the model or its checkpoint is wrong, they do not fit, or torch.export refuses.
    """
    spec = recipe.model
    path = Path(spec.target)
    if (path / MARK).is_file():
        return FolderEmitter().load_lazily(path)
    if (path / "config.json").is_file():
        sources = read_checkpoint(spec.checkpoint or path)
        make = partial(_from_config, path, spec.kwargs, sources)
    elif ":" not in spec.target:
        hint = "give a folder of Hugging Face or of graphc, or package.module:callable with a checkpoint"
        raise RecipeError(f"{HERE} cannot read the model {spec.target!r}", where="model.target", hint=hint)
    elif spec.checkpoint is None:
        hint = "add `checkpoint: folder or file.safetensors` to `model`"
        raise RecipeError(f"{HERE} needs a checkpoint of the model", where="model.checkpoint", hint=hint)
    else:
        sources = read_checkpoint(spec.checkpoint)
        make = partial(_from_target, spec.target, spec.kwargs)
    return capture_lazily(make, sources, (), recipe.inputs(), dynamic=recipe.dynamic)


def _from_target(target: str, kwargs: dict[str, Any]) -> nn.Module:
    made = call_target(target, kwargs, "model")
    if not isinstance(made, nn.Module):
        why = f"it gave a {type(made).__name__}"
        raise RecipeError(f"{target!r} gives no module", where="model.target", why=why, hint="return an nn.Module")
    return made


def _from_config(folder: Path, kwargs: dict[str, Any], sources: Sources) -> nn.Module:
    """The model of a Hugging Face folder, made from its config in the dtype of the config or of the checkpoint."""
    kind, config, unknown = class_of_folder(folder, kwargs)
    if unknown:
        hint = "give fields of the config alone: dtype, attn_implementation"
        raise RecipeError(f"{HERE} does not know {next(iter(unknown))!r}", where="model.kwargs", hint=hint)
    named = getattr(config, "dtype", None)
    stored = next((source.dtype for source in sources.values() if source.dtype.is_floating_point), torch.float32)
    with default_dtype(getattr(torch, named) if isinstance(named, str) else named or stored):
        make: Callable[[Any], nn.Module] = kind
        return make(config)
