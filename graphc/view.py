"""What people read on the terminal: progress, tables, errors."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphc import view_cache
from graphc.coupling.explain import AxisFacts, Explanation
from graphc.errors import GraphError
from graphc.measure.cost import Change, changes, cost
from graphc.pipeline import named
from graphc.pipeline.base import Pass
from graphc.pipeline.checked import default, options
from graphc.pipeline.latency import Latency
from graphc.pipeline.recipe import Recipe
from graphc.pipeline.run import Compilation
from graphc.pipeline.sensitivity import Sensitivity

SHOWN = 6


class Progress:
    """Says what a compile is doing, and what each pass did when it is done."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = console.status("starting")

    def __enter__(self) -> Progress:
        self.status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.status.stop()

    def __call__(self, event: str, about: Any) -> None:
        """One event of a compile."""
        view_cache.event(self.console, event, about)
        if event == "reading":
            self.status.update(f"capturing the model of {escape(str(about))}")
        elif event == "captured":
            self.console.print(f"[bold]captured[/bold]  {figures(cost(about).to_dict())}")
        elif event == "evaluated":
            self.console.print(f"  {escape(about[0])} {about[1]:.4f}", soft_wrap=True)
        elif event == "pass":
            self.status.update(f"running {escape(about.title)}")
        elif event == "progress":
            done, total, text = about
            self.status.update(f"{escape(text)}: {done}" + (f" of {total}" if total else ""))
        elif event == "done":
            step, latency = about
            self.console.print(f"[bold green]{escape(step.name)}[/bold green]  ({step.seconds:.1f} s)")
            lines(self.console, changes(step.before, step.after))
            for line in step.facts.get("says", ()):
                self.console.print(f"  {escape(line)}", soft_wrap=True)
            self.console.print(f"  {figures(cost(step.after).to_dict(), latency)}", soft_wrap=True)
            if "metric" in step.facts:
                self.console.print(f"  metric {step.facts['metric']:.4f}", soft_wrap=True)
        elif event == "emit":
            self.status.update(f"emitting and checking {escape(about)}")
        elif event == "emitted":
            artifact, latency = about
            sizes = " and ".join(_sizes(s) for s in artifact.sizes)
            self.console.print(
                f"[bold green]{escape(artifact.path.name)}[/bold green]  {artifact.bytes / 1e6:.1f} MB, "
                f"equal to the program within {artifact.error:.1e} at {sizes}",
                soft_wrap=True,
            )
            if latency is not None:
                self.console.print(f"  {_latency(latency)}, {_smaller(latency, artifact.bytes)}", soft_wrap=True)
                for reason in latency.warnings:
                    self.console.print(
                        f"  [yellow]integers are no faster here:[/yellow] {escape(reason)}", soft_wrap=True
                    )


def targets(console: Console, recipe: Recipe) -> None:
    """The code that a recipe names, before any of it is imported."""
    found = named.targets(recipe.model_dump())
    if found:
        text = ", ".join(f"{target} ({key})" for key, target in found)
        console.print(f"the recipe runs {escape(text)}", soft_wrap=True)


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "its only size"


def _smaller(latency: Latency, now: int) -> str:
    assert latency.bytes_before is not None
    return f"{latency.bytes_before / 1e6:.1f} => {now / 1e6:.1f} MB"


def lines(console: Console, found: Sequence[Change]) -> None:
    """Changed modules, those that changed alike folded into one line."""
    groups: dict[str, list[str]] = {}
    for change in found:
        _, _, what = str(change).rpartition(": ") if not change.after else str(change).partition(": ")
        groups.setdefault(what, []).append(change.module or "(root)")
    for i, (what, modules) in enumerate(groups.items()):
        if i == SHOWN:
            console.print(f"  ... and {len(groups) - SHOWN} more kinds of change; report.json has all")
            return
        more = f" and {len(modules) - 1} more" if len(modules) > 1 else ""
        console.print(f"  {escape(modules[0])}{more}: {escape(what)}", soft_wrap=True)


def figures(values: Mapping[str, int], latency: Latency | None = None) -> str:
    """One line of parameters, MACs, bytes and p50."""
    text = f"{values['params'] / 1e6:.2f} M params, {values['macs'] / 1e9:.3f} G MACs, {values['bytes'] / 1e6:.1f} MB"
    return f"{text}, {_latency(latency)}" if latency is not None else text


def _latency(latency: Latency) -> str:
    return (
        f"p50 {latency.before_ms:.2f} => {latency.after_ms:.2f} ms in {latency.backend} "
        f"(time x {latency.ratio:.2f}, {latency.low:.2f} to {latency.high:.2f})"
    )


def summary(console: Console, compilation: Compilation, folder: Path) -> None:
    """Before and after, as a table."""
    table = Table("", "before", "after", "after / before", box=None)
    before, after = (compilation.report[side] for side in ("before", "after"))
    for key, title in (("params", "parameters"), ("macs", "MACs (1 MAC = 2 FLOPs)"), ("bytes", "bytes of tensors")):
        table.add_row(title, f"{before[key]:,}", f"{after[key]:,}", f"{after[key] / before[key]:.2%}")
    if "metric" in before:
        share = compilation.report["metric"]["retained"]
        retained = f"{share:.2%}" if share is not None else ""
        name = compilation.report["metric"]["name"]
        table.add_row(name, f"{before['metric']:.4f}", f"{after['metric']:.4f}", retained)
    for artifact in compilation.report["artifacts"]:
        latency = artifact.get("latency")
        if latency is not None:
            old, new = latency["bytes_before"], artifact["bytes"]
            table.add_row(f"{artifact['name']}, bytes", f"{old:,}", f"{new:,}", f"{new / old:.2%}")
            times = (f"{latency['before_ms']:.2f}", f"{latency['after_ms']:.2f}", f"{latency['ratio']:.2%}")
            table.add_row(f"{artifact['name']}, p50 ms", *times)
    console.print(table)
    names = ["report.html", "report.json", *(a.path.name for a in compilation.artifacts)]
    console.print(f"written to {escape(str(folder))}: {escape(', '.join(names))}", soft_wrap=True)


def explanation(console: Console, facts: Explanation, everything: bool) -> None:
    """Free axes, layers, pins by reason, ops without a rule."""
    free = [axis for axis in facts.axes if axis.pinned is None]
    console.print(f"[bold]{len(free)} axes that can be cut[/bold]")
    for axis in free:
        console.print(f"  [bold green]{escape(axis.name)}[/bold green]  {axis.size}  {_kind(axis)}", soft_wrap=True)
        shown = _some([f"{name} dim {dim}" for name, dim in axis.members], len(axis.members) if everything else 3)
        console.print(f"    in {escape(shown)}", soft_wrap=True)
        if axis.coupled_by:
            console.print(f"    coupled by {escape(_some(axis.coupled_by, 3))}", soft_wrap=True)
    console.print(f"[bold]{len(facts.layers)} layers that can be removed[/bold]")
    for number, layer in enumerate(facts.layers):
        ends = f"{layer.entry} -> {layer.exit}"
        console.print(f"  {number}  {escape(layer.name)}  {layer.params:,} parameters  ({ends})", soft_wrap=True)
    console.print(f"[bold]{len(facts.axes) - len(free)} axes that cannot be cut[/bold]")
    for why, names in facts.pins.items():
        console.print(f"  {escape(why)}: {escape(_some(names, len(names) if everything else 2))}", soft_wrap=True)
    for warning in facts.warnings:
        console.print(f"[yellow]note[/yellow] {escape(warning)}", soft_wrap=True)
    for op, places in facts.without_rule.items():
        console.print(f"[yellow]no rule for {escape(op)}[/yellow] at {escape(_some(places))}: it pins what it meets")


def _kind(axis: AxisFacts) -> str:
    words = [role for role in ("heads", "head_dim", "repeat", "filters", "groups", "width") if role in axis.roles][:1]
    return " ".join([*words, *(["mixed"] if axis.mixed else [])])


def _some(values: Sequence[str], count: int = 2) -> str:
    more = f" +{len(values) - count}" if len(values) > count else ""
    return ", ".join(values[:count]) + more


def losses(console: Console, found: Sensitivity) -> None:
    """What the metric loses by each item and ratio; what loses most comes first."""
    rows = found.rows()
    ratios = sorted({ratio for row in rows.values() for ratio in row})
    table = Table("pass", "item", *(f"-{ratio:.0%}" for ratio in ratios))
    for (title, item), row in sorted(rows.items(), key=lambda entry: -max(entry[1].values())):
        table.add_row(escape(title), escape(item), *(f"{row[r]:+.4f}" if r in row else "" for r in ratios))
    console.print(f"{escape(found.metric)} is {found.baseline:.4f}; what it loses when one item alone is compressed:")
    console.print(table)


def numbers(text: str) -> list[float]:
    """``0.25,0.5`` as numbers.

    Raises:
        GraphError: it is not of that form.
    """
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise GraphError(f"{text!r} are no numbers", where="--ratios", hint="write --ratios 0.25,0.5") from error


def size(text: str) -> tuple[str, int]:
    """``sequence=128`` as a name and a number.

    Raises:
        GraphError: it is not of that form.
    """
    name, equals, number = text.partition("=")
    if not equals or not number.isdigit():
        raise GraphError(f"{text!r} is no size of a dim", where="--dim", hint="write --dim sequence=128")
    return name, int(number)


def sizes(text: str) -> tuple[str, tuple[int, ...]]:
    """``tokens=32,128`` as a name and numbers.

    Raises:
        GraphError: it is not of that form.
    """
    name, equals, listed = text.partition("=")
    return name, whole_numbers(listed if equals else text, "--dims", "tokens=32,128")


def whole_numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """``1,8`` as numbers.

    Raises:
        GraphError: it is not of that form.
    """
    words = text.split(",")
    if not all(word.isdigit() for word in words):
        raise GraphError(f"{text!r} are no whole numbers", where=option, hint=f"write {option} {example}")
    return tuple(map(int, words))


def pass_facts(kind: type[Pass]) -> dict[str, Any]:
    """A pass as plain data: what it does, and its options."""
    return {
        "summary": (inspect.getdoc(kind) or ""),
        "options": {
            name: {"default": _default(kind, name), **adapter.json_schema()} for name, adapter in options(kind).items()
        },
    }


def _default(kind: type[Pass], name: str) -> Any:
    value = default(next(f for f in dataclasses.fields(kind) if f.name == name))
    return "required" if value is dataclasses.MISSING else value


def pass_list(console: Console, found: Mapping[str, type[Pass]]) -> None:
    """All passes, one line each."""
    table = Table("pass", "what it does", box=None)
    for name, kind in found.items():
        table.add_row(name, (inspect.getdoc(kind) or "").splitlines()[0])
    console.print(table)


def pass_options(console: Console, kind: type[Pass]) -> None:
    """One pass and its options."""
    console.print(f"[bold]{kind.type}[/bold]\n{escape(inspect.getdoc(kind) or '')}\n")
    table = Table("option", "default", "values", "what it is", box=None)
    for name, adapter in options(kind).items():
        schema = adapter.json_schema()
        table.add_row(
            name, escape(repr(_default(kind, name))), escape(_values(schema)), escape(schema.get("description", ""))
        )
    console.print(table)


def _values(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_values(part) for part in schema["anyOf"])
    limits = [
        f"{sign} {schema[key]}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", ">="), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([str(schema.get("type", "any")), *limits])


def error(console: Console, problem: GraphError) -> None:
    """What, where, why, what to do; the pass it happened in."""
    console.print(f"[bold red]error[/bold red]: {escape(problem.what)}", soft_wrap=True)
    for label, text in (("where", problem.where), ("why", problem.why), ("what to do", problem.hint)):
        if text:
            console.print(f"  [bold]{label}[/bold]: {escape(text)}", soft_wrap=True)
    for note in getattr(problem, "__notes__", ()):
        console.print(f"  {escape(note)}", soft_wrap=True)
