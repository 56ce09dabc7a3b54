"""Compile: capture, run the passes in order, check each, emit, measure, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphc.emitters.base import Artifact, check_writable, emit, make_emitter
from graphc.errors import GraphError
from graphc.ir.capture import Dynamic, capture
from graphc.ir.program import Program
from graphc.ir.verify import verify
from graphc.measure.report import Step, report, write_report
from graphc.pipeline.base import Context, Data, Pass
from graphc.pipeline.latency import Latency, time_artifact, time_programs
from graphc.pipeline.recipe import Bench, Recipe, check_names, read_recipe
from graphc.pipeline.targets import Model, call_target, find_target, load_model

Watch = Callable[[str, Any], None]
"""Told what happens: an event's name and what it is about."""


@dataclass(frozen=True)
class Compilation:
    """The result of a compile.

    Attributes:
        program: the compiled program.
        original: the program as it was captured.
        report: what happened, in numbers, as report.json holds it.
        artifacts: what was written, each proven equal to the program.
    """

    program: Program
    original: Program
    report: dict[str, Any]
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A compile, ready to run: everything that can be checked beforehand has been checked."""

    original: Program
    passes: tuple[Pass, ...]
    data: Mapping[str, Data] = field(default_factory=dict)
    emit: tuple[str, ...] = ()
    opset_version: int | None = None
    output_dir: Path | None = None
    bench: Bench | None = None
    seed: int = 0
    device: str = "cpu"
    recipe: Mapping[str, Any] = field(default_factory=dict)


def compile(
    model: Model | Recipe | Mapping[str, Any] | str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic | None = None,
    passes: Sequence[Pass] = (),
    data: Mapping[str, Data | Iterable[Any]] | None = None,
    emit: Sequence[str] = (),
    opset_version: int | None = None,
    output_dir: str | Path | None = None,
    bench: Bench | None = None,
    seed: int = 0,
    device: str = "cpu",
    watch: Watch = lambda event, about: None,
) -> Compilation:
    """Compile a model: run passes over it in the order given, emit the result, measure it.

    Args:
        model: a module, an ExportedProgram, a Program; or a recipe (a YAML file, a mapping, a
            Recipe), which says all the rest except ``output_dir``.
        args, kwargs, dynamic: as for ``graphc.capture``; not for a Program, which has its own.
        passes: what to do; their names must differ.
        data: loaders by name, as iterables or as callables that give one.
        emit: names of files to write in ``output_dir``: ``model.onnx``, ``model.pt2``, ``model/``.
        opset_version: of ONNX files.
        output_dir: where files and report.json go; without it nothing is written.
        bench: how to measure latency; None measures none.
        seed, device: for passes that train or draw.
        watch: called with each event: ``captured``, ``pass``, ``done``, ``emit``, ``emitted``, ``report``.

    Raises:
        GraphError: the model, a pass, an option or a place to write is wrong (before any long
            work), or a pass or an artifact fails its proof.
    """
    if isinstance(model, (str, Path, Mapping, Recipe)):
        recipe = model if isinstance(model, Recipe) else read_recipe(model)
        return run(plan(recipe, output_dir, device), watch)
    _check_outputs(emit, opset_version, output_dir)
    check_names(list(passes))
    original = model if isinstance(model, Program) else capture(model, args, kwargs, dynamic=dynamic)
    loaders = {name: _loader(value) for name, value in (data or {}).items()}
    made = Plan(
        original=original,
        passes=tuple(passes),
        data=loaders,
        emit=tuple(emit),
        opset_version=opset_version,
        output_dir=Path(output_dir) if output_dir is not None else None,
        bench=bench,
        seed=seed,
        device=device,
    )
    return run(made, watch)


def _loader(value: Data | Iterable[Any]) -> Data:
    if callable(value):
        return value
    return lambda: value


def plan(recipe: Recipe, output_dir: str | Path | None = None, device: str = "cpu") -> Plan:
    """Check a recipe and capture its model; nothing long runs before everything else is checked.

    Raises:
        GraphError: a name, option, target or place to write is wrong, or the model cannot be captured.
    """
    passes = recipe.make_passes()
    _check_outputs(recipe.emit, recipe.opset_version, output_dir)
    for name, spec in recipe.data.items():
        find_target(spec.target, f"data.{name}")
    if recipe.metric is not None and ":" in recipe.metric:
        find_target(recipe.metric, "metric")
    return Plan(
        original=captured(recipe),
        passes=tuple(passes),
        data={name: _target_loader(name, spec.target, spec.kwargs) for name, spec in recipe.data.items()},
        emit=tuple(recipe.emit),
        opset_version=recipe.opset_version,
        output_dir=Path(output_dir) if output_dir is not None else None,
        bench=recipe.bench,
        seed=recipe.seed,
        device=device,
        recipe=recipe.model_dump(mode="json", exclude_defaults=True),
    )


def _target_loader(name: str, target: str, kwargs: Mapping[str, Any]) -> Data:
    def load() -> Iterable[Any]:
        made: Iterable[Any] = call_target(target, kwargs, f"data.{name}")
        return made

    return load


def captured(recipe: Recipe) -> Program:
    """The recipe's model as a Program.

    Raises:
        GraphError: the model or an input is wrong, or torch.export refuses.
    """
    torch.manual_seed(recipe.seed)
    model = load_model(recipe.model.target, recipe.model.kwargs)
    if isinstance(model, Program):
        return model
    return capture(model, (), {} if isinstance(model, ExportedProgram) else recipe.inputs(), dynamic=recipe.dynamic)


def _check_outputs(names: Sequence[str], opset_version: int | None, output_dir: str | Path | None) -> None:
    if names and output_dir is None:
        raise GraphError("there is no place to write to", where="emit", hint="give output_dir (-o FOLDER)")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise GraphError(f"the artifact {name!r} would leave the output folder", where="emit", hint="give a name")
        make_emitter(name, _options(name, opset_version))
    if output_dir is not None:
        check_writable(Path(output_dir) / "report.json")
        for name in names:
            check_writable(Path(output_dir) / name)


def _options(name: str, opset_version: int | None) -> dict[str, Any]:
    return {"opset_version": opset_version} if opset_version is not None and name.endswith(".onnx") else {}


def run(made: Plan, watch: Watch = lambda event, about: None) -> Compilation:
    """Run a plan."""
    torch.manual_seed(made.seed)
    watch("captured", made.original)
    context = Context(made.original, made.data, made.device, made.seed, made.output_dir)
    program = made.original
    steps: list[Step] = []
    latencies: list[Latency | None] = []
    for item in made.passes:
        watch("pass", item)
        before, start = program, time.perf_counter()
        program = apply(item, program, context, [step.name for step in steps])
        latency = time_programs(made.original, program, made.bench)
        step = Step(item.title, time.perf_counter() - start, before, program, _facts(item, latency))
        steps.append(step)
        latencies.append(latency)
        watch("done", (step, latency))
    artifacts, measured = _emit(made, program, watch)
    final = latencies[-1] if latencies else time_programs(made.original, program, made.bench)
    content = report(
        made.original,
        program,
        recipe=made.recipe,
        steps=steps,
        artifacts=[_artifact(artifact, measured.get(artifact.path.name)) for artifact in artifacts],
        p50_ms=(final.before_ms, final.after_ms) if final is not None else None,
    )
    if made.output_dir is not None:
        write_report(content, made.output_dir / "report.json")
    watch("report", content)
    return Compilation(program, made.original, content, tuple(artifacts))


def apply(item: Pass, program: Program, context: Context, done: Sequence[str] = ()) -> Program:
    """Run one pass and prove its result.

    Raises:
        GraphError: the pass refuses, or its result breaks the contract; says which passes ran before.
    """
    try:
        item.requires(program)
        result = item.run(program, context)
        verify(result)
        item.ensures(program, result)
    except GraphError as error:
        before = f" after {', '.join(done)}" if done else ""
        error.add_note(f"in pass {item.title}{before}")
        raise
    return dataclasses.replace(result, history=(*program.history, item.note()))


def _facts(item: Pass, latency: Latency | None) -> dict[str, Any]:
    options = {f.name: getattr(item, f.name) for f in dataclasses.fields(item) if f.name != "name"}
    facts: dict[str, Any] = {"type": item.type, "options": options}
    return {**facts, "latency": latency.to_dict()} if latency is not None else facts


def _artifact(artifact: Artifact, latency: Latency | None) -> dict[str, Any]:
    facts = {
        "name": artifact.path.name,
        "kind": artifact.kind,
        "bytes": artifact.bytes,
        "relative_error": artifact.error,
        "checked_at": [dict(sizes) for sizes in artifact.sizes],
    }
    return {**facts, "latency": latency.to_dict()} if latency is not None else facts


def _emit(made: Plan, program: Program, watch: Watch) -> tuple[list[Artifact], dict[str, Latency]]:
    artifacts: list[Artifact] = []
    measured: dict[str, Latency] = {}
    for name in made.emit:
        assert made.output_dir is not None
        options = _options(name, made.opset_version)
        watch("emit", name)
        artifact = emit(program, made.output_dir / name, **options)
        latency = time_artifact(made.original, program, artifact, options, made.bench)
        if latency is not None:
            measured[artifact.path.name] = latency
        artifacts.append(artifact)
        watch("emitted", (artifact, latency))
    return artifacts, measured
