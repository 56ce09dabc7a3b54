"""Plan: a compile whose every input has been checked, before anything long runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphc.emitters.base import check_writable, find_emitter, make_emitter
from graphc.emitters.folder import FolderEmitter
from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.capture import capture
from graphc.ir.checkpoint import load_checkpoint
from graphc.ir.parts import capture_part
from graphc.ir.program import Program
from graphc.pipeline.base import Data, Pass, missing_data
from graphc.pipeline.evaluation import DATA
from graphc.pipeline.fingerprint import Given, Made
from graphc.pipeline.lock import check_free
from graphc.pipeline.low_memory import captured_lazily, check_low_memory
from graphc.pipeline.metrics import find_metric
from graphc.pipeline.recipe import Bench, Recipe, check_names
from graphc.pipeline.targets import find_target, load_model


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compile, ready to run: everything that can be checked beforehand has been checked."""

    original: Program
    passes: tuple[Pass, ...]
    data: Mapping[str, Data] = field(default_factory=dict)
    emit: tuple[str, ...] = ()
    opset_version: int | None = None
    optimize: str | None = None
    shard_size: int | str | None = None
    output_dir: Path | None = None
    bench: Bench | None = None
    seed: int = 0
    device: str = "cpu"
    metric: str | None = None
    resume: bool = False
    cache_dir: Path | None = None
    label: str = ""
    """What the cache shows the compile as."""
    recipe: Mapping[str, Any] = field(default_factory=dict)


def loader(value: Data | Iterable[Any]) -> Data:
    """A loader from a callable, or from an iterable that is gone through each time."""
    if callable(value):
        return value
    return Given(value)


def label(model: Any) -> str:
    """What to call a compile by: its recipe's file or the target of its model, or the class of the model."""
    if isinstance(model, (str, Path)):
        return Path(model).name
    if isinstance(model, Recipe):
        return model.model.target
    return str(model["model"]["target"]) if isinstance(model, Mapping) else type(model).__name__


def plan(
    recipe: Recipe,
    output_dir: str | Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    cache_dir: str | Path | None = None,
    title: str = "",
) -> Plan:
    """Check a recipe and capture its model; nothing long runs before everything else is checked.

    Args:
        recipe: what to do.
        output_dir: where files go; None writes none.
        device: where training and calibration run.
        resume: go on from what an interrupted run of this recipe left in ``output_dir``.
        cache_dir: instead of the recipe's.
        title: what the cache shows the compile as.

    Raises:
        GraphError: a name, option, target or place to write is wrong, or the model cannot be captured.
    """
    passes = recipe.make_passes()
    if recipe.low_memory:
        keeps = resume or (cache_dir or recipe.cache_dir) is not None
        check_low_memory(recipe, passes, device, keeps)
    check(
        passes,
        recipe.data,
        recipe.emit,
        recipe.opset_version,
        recipe.optimize,
        output_dir,
        recipe.metric,
        resume,
        recipe.shard_size,
    )
    for name, spec in recipe.data.items():
        find_target(spec.target, f"data.{name}")
    return Plan(
        original=captured(recipe),
        passes=tuple(passes),
        data={name: target_loader(name, spec.target, spec.kwargs) for name, spec in recipe.data.items()},
        emit=tuple(recipe.emit),
        opset_version=recipe.opset_version,
        optimize=recipe.optimize,
        shard_size=recipe.shard_size,
        output_dir=Path(output_dir) if output_dir is not None else None,
        bench=None if recipe.low_memory else recipe.bench,
        seed=recipe.seed,
        device=device,
        metric=recipe.metric,
        resume=resume,
        cache_dir=Path(found) if (found := cache_dir or recipe.cache_dir) is not None else None,
        label=title or label(recipe),
        recipe=recipe.model_dump(mode="json", exclude_defaults=True),
    )


def target_loader(name: str, target: str, kwargs: Mapping[str, Any]) -> Data:
    """The data of a recipe: calls its target each time; ``name`` is for errors."""

    return Made(name, target, kwargs)


def captured(recipe: Recipe) -> Program:
    """The recipe's model as a Program.

    Raises:
        GraphError: the model or an input is wrong, or torch.export refuses.
    """
    torch.manual_seed(recipe.seed)
    if recipe.low_memory:
        return captured_lazily(recipe)
    model = load_model(recipe.model.target, recipe.model.kwargs)
    if recipe.model.checkpoint is not None:
        if not isinstance(model, torch.nn.Module):
            why = f"it gives a {type(model).__name__}, which has its weights"
            raise RecipeError(f"{recipe.model.target!r} takes no checkpoint", where="model.checkpoint", why=why)
        load_checkpoint(model, recipe.model.checkpoint)
    part = recipe.model.part
    if part is not None:
        if not isinstance(model, torch.nn.Module):
            why = f"it gives a {type(model).__name__}, and only a module has parts"
            raise RecipeError(f"{recipe.model.target!r} has no parts", where="model.part", why=why)
        return capture_part(model, part, (), recipe.inputs(), dynamic=recipe.dynamic)
    if isinstance(model, Program):
        return model
    return capture(model, (), {} if isinstance(model, ExportedProgram) else recipe.inputs(), dynamic=recipe.dynamic)


def check(
    passes: Sequence[Pass],
    data: Collection[str],
    emit: Sequence[str],
    opset_version: int | None,
    optimize: str | None,
    output_dir: str | Path | None,
    metric: str | None,
    resume: bool,
    shard_size: int | str | None = None,
) -> None:
    """Everything that can be seen before the model is captured.

    Raises:
        GraphError: names of passes, data, references, the metric, or a place to write are wrong.
    """
    check_names(passes)
    check_data(passes, data)
    check_references(passes)
    check_opset(passes, opset_version)
    check_metric(metric, data)
    check_outputs(emit, opset_version, optimize, output_dir, shard_size)
    if resume and output_dir is None:
        raise RecipeError("there is nothing to resume from", where="resume", hint="give output_dir (-o FOLDER)")


def check_data(passes: Sequence[Pass], data: Collection[str]) -> None:
    """See that every pass has the data that it reads, before any work.

    Raises:
        RecipeError: a pass needs data that there is not; says what for.
    """
    for item in passes:
        for name, why in item.needs_data().items():
            if name not in data:
                raise missing_data(f"the pass {item.title}", name, data, why)


def check_opset(passes: Sequence[Pass], opset_version: int | None) -> None:
    """See that ONNX files can have what the passes make, before any work.

    Raises:
        RecipeError: the operator set is too old for a pass.
    """
    for item in passes:
        if opset_version is not None and opset_version < item.least_opset():
            what = f"the pass {item.title} needs opset_version {item.least_opset()}, not {opset_version}"
            raise RecipeError(what, where="opset_version", hint="give a higher one, or none")


def check_metric(metric: str | None, data: Collection[str]) -> None:
    """See that a metric exists and has data to be taken on.

    Raises:
        RecipeError: one of the two is not there.
    """
    if metric is not None:
        find_metric(metric)
        if DATA not in data:
            raise missing_data("the metric", DATA, data)


def check_references(passes: Sequence[Pass]) -> None:
    """See that what a pass refers to is the name of an earlier pass.

    Raises:
        RecipeError: it is not; names the nearest.
    """
    for i, item in enumerate(passes):
        earlier = [other.title for other in passes[:i]]
        for name in item.refers():
            if name not in earlier:
                hint = nearest(name, earlier) if earlier else "it is the first pass"
                what = f"the pass {item.title} refers to {name!r}, which is no pass before it"
                raise RecipeError(what, where=f"passes[{i}]", hint=hint)


def check_outputs(
    names: Sequence[str],
    opset_version: int | None,
    optimize: str | None,
    output_dir: str | Path | None,
    shard_size: int | str | None = None,
) -> None:
    """See that every artifact can be written, before any work.

    Raises:
        GraphError: there is no folder, a name would leave it, no emitter writes it, or it cannot be written.
    """
    if names and output_dir is None:
        raise GraphError("there is no place to write to", where="emit", hint="give output_dir (-o FOLDER)")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or not _stays(Path(output_dir or ""), name):
            raise GraphError(f"the artifact {name!r} would leave the output folder", where="emit", hint="give a name")
        make_emitter(name, emit_options(name, opset_version, optimize, shard_size))
    if output_dir is not None:
        check_free(Path(output_dir))
        check_writable(Path(output_dir) / "report.json")
        for name in names:
            check_writable(Path(output_dir) / name)


def _stays(folder: Path, name: str) -> bool:
    """Is the place of an artifact in the folder, also where a folder in it is a link?"""
    try:
        return (folder / name).parent.resolve().is_relative_to(folder.resolve())
    except ValueError:  # it has a character that no path can have
        return False


def emit_options(
    name: str, opset_version: int | None, optimize: str | None, shard_size: int | str | None = None
) -> dict[str, Any]:
    """Options of the emitter of one artifact."""
    options: dict[str, Any] = {}
    if name.endswith(".onnx"):
        options = {"opset_version": opset_version, "optimize": optimize}
    elif find_emitter(name) is FolderEmitter:
        options = {"shard_size": shard_size}
    return {name: value for name, value in options.items() if value is not None}
