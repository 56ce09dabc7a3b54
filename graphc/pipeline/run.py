"""Compile: capture, run the passes in order, check each, emit, measure, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graphc.emitters.base import Artifact, emit
from graphc.ir.capture import Dynamic, capture
from graphc.ir.program import Program
from graphc.measure.report import Step, report, write_report
from graphc.page.report import FILE, report_page
from graphc.pipeline.base import Data, Pass
from graphc.pipeline.cache import open_cache
from graphc.pipeline.evaluation import Evaluator
from graphc.pipeline.latency import Latency, time_artifact, time_programs
from graphc.pipeline.lock import occupied
from graphc.pipeline.perform import Watch, begin, perform
from graphc.pipeline.plan import Plan, check, emit_options, label, loader, plan
from graphc.pipeline.processes import is_first
from graphc.pipeline.recipe import Bench, Recipe, read_recipe
from graphc.pipeline.targets import Model


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
    optimize: str | None = None,
    output_dir: str | Path | None = None,
    bench: Bench | None = None,
    seed: int = 0,
    device: str = "cpu",
    metric: str | None = None,
    resume: bool = False,
    cache_dir: str | Path | None = None,
    watch: Watch = lambda event, about: None,
) -> Compilation:
    """Compile a model: run passes over it in the order given, emit the result, measure it.

    Args:
        model: a module, an ExportedProgram, a Program; or a recipe (a YAML file, a mapping, a
            Recipe), which says all the rest except ``output_dir``, ``device``, ``resume`` and ``cache_dir``.
        args, kwargs, dynamic: as for ``graphc.capture``; not for a Program, which has its own.
        passes: what to do; their names must differ.
        data: loaders by name, as iterables or as callables that give one.
        emit: names of files to write in ``output_dir``: ``model.onnx``, ``model.pt2``, ``model/``.
        opset_version, optimize: of ONNX files; the latter is the runtime that they are fused for, ``onnxruntime``.
        output_dir: where files and report.json go; without it nothing is written.
        bench: how to measure latency; None measures none.
        seed, device: for passes that train or draw.
        metric: ``accuracy``, ``top-5``, ``f1``, ``perplexity``, ``cosine``, or ``package.module:callable``,
            taken on the data called ``eval`` before the first pass, after each that trains and at the end.
        resume: go on from what an interrupted compile left in ``output_dir``: results of passes, checkpoints.
        cache_dir: a folder of results of passes, taken by every compile for which nothing has changed.
        watch: called with each event: ``captured pass cached progress evaluated done emit emitted report`` and others.

    Raises:
        GraphError: the model, a pass, an option or a place to write is wrong (before any long work), or a proof fails.
    """
    if isinstance(model, (str, Path, Mapping, Recipe)):
        recipe = model if isinstance(model, Recipe) else read_recipe(model)
        return run(plan(recipe, output_dir, device, resume, cache_dir, label(model)), watch)
    check(passes, data or {}, emit, opset_version, optimize, output_dir, metric, resume)
    original = model if isinstance(model, Program) else capture(model, args, kwargs, dynamic=dynamic)
    common = partial(Plan, bench=bench, seed=seed, device=device, metric=metric, resume=resume, label=label(model))
    made = common(
        original=original,
        passes=tuple(passes),
        data={name: loader(value) for name, value in (data or {}).items()},
        emit=tuple(emit),
        opset_version=opset_version,
        optimize=optimize,
        output_dir=Path(output_dir) if output_dir is not None else None,
        cache_dir=Path(cache_dir) if cache_dir is not None else None,
    )
    return run(made, watch)


def run(made: Plan, watch: Watch = lambda event, about: None) -> Compilation:
    """Run a plan. Of several processes only the first times, writes and tells.

    Raises:
        GraphError: another compile is in the output folder, the disk is full, a pass refuses, or a proof fails.
    """
    with occupied(made.output_dir if is_first() else None) as cut_off:
        if cut_off and not made.resume:
            watch("cut off", made.output_dir)
        return _run(made, watch)


def _run(made: Plan, watch: Watch) -> Compilation:
    told: dict[str, Mapping[str, Any]] = {}
    states: dict[str, Program] = {}
    context = dataclasses.replace(begin(made, watch), states=states, record=told.__setitem__)
    evaluator = context.evaluator
    program = made.original
    steps: list[Step] = []
    latencies: list[Latency | None] = []
    wanted = {name for item in made.passes for name in item.refers()}
    cache = open_cache(made)
    for item in made.passes:
        watch("pass", item)
        before, start = program, time.perf_counter()
        program, entry = perform(item, program, context, [step.name for step in steps], cache, watch)
        seconds = time.perf_counter() - start
        if item.title in wanted:
            states[item.title] = program
        latency = time_programs(made.original, program, made.bench) if is_first() else None
        facts = {**_facts(item, before, program, latency), **told.get(item.title, {})}
        if entry is not None:
            facts["cached"] = entry.to_dict()
        if evaluator is not None and (item.trains or item is made.passes[-1]):
            facts["metric"] = evaluator(program)
        step = Step(item.title, seconds, before, program, facts)
        steps.append(step)
        latencies.append(latency)
        watch("done", (step, latency))
    return _finished(made, program, steps, latencies, evaluator, watch)


def _finished(
    made: Plan,
    program: Program,
    steps: Sequence[Step],
    latencies: Sequence[Latency | None],
    evaluator: Evaluator | None,
    watch: Watch,
) -> Compilation:
    """Emit, and write the report."""
    if not is_first():
        return Compilation(program, made.original, {}, ())
    artifacts, measured = _emit(made, program, watch)
    final = latencies[-1] if latencies else time_programs(made.original, program, made.bench)
    content = report(
        made.original,
        program,
        name=made.label,
        recipe=made.recipe,
        bench=made.bench.model_dump() if made.bench is not None else None,
        steps=steps,
        artifacts=[_artifact(artifact, measured.get(artifact.path.name)) for artifact in artifacts],
        p50_ms=(final.before_ms, final.after_ms) if final is not None else None,
        metric=(evaluator.metric.name, evaluator.baseline, evaluator(program)) if evaluator is not None else None,
    )
    if made.output_dir is not None:
        write_report(content, made.output_dir / "report.json", {FILE: report_page(content, steps)})
    watch("report", content)
    return Compilation(program, made.original, content, tuple(artifacts))


def _facts(item: Pass, before: Program, after: Program, latency: Latency | None) -> dict[str, Any]:
    options = {f.name: getattr(item, f.name) for f in dataclasses.fields(item) if f.name != "name"}
    facts: dict[str, Any] = {"type": item.type, "options": options, **item.facts(before, after)}
    return {**facts, "latency": latency.to_dict()} if latency is not None else facts


def _artifact(artifact: Artifact, latency: Latency | None) -> dict[str, Any]:
    facts = {
        "name": artifact.path.name,
        "kind": artifact.kind,
        "bytes": artifact.bytes,
        "relative_error": artifact.error,
        "checked_at": [dict(sizes) for sizes in artifact.sizes],
        **artifact.facts,
    }
    return {**facts, "latency": latency.to_dict()} if latency is not None else facts


def _emit(made: Plan, program: Program, watch: Watch) -> tuple[list[Artifact], dict[str, Latency]]:
    artifacts: list[Artifact] = []
    measured: dict[str, Latency] = {}
    for name in made.emit:
        assert made.output_dir is not None
        options = emit_options(name, made.opset_version, made.optimize, made.shard_size)
        watch("emit", name)
        artifact = emit(program, made.output_dir / name, **options)
        latency = time_artifact(made.original, program, artifact, options, made.bench)
        if latency is not None:
            measured[artifact.path.name] = latency
        artifacts.append(artifact)
        watch("emitted", (artifact, latency))
    return artifacts, measured
