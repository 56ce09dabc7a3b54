"""Sensitivity: what the user's metric loses when one axis, layer or tensor at a time is compressed.

The passes of a recipe say what they would compress (``Pass.probes``); each of these is compressed
alone, at several ratios, and the metric is taken on the recipe's ``eval`` data. Probes are
independent, so they run in parallel processes, and each is kept as soon as it is known: an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graphc.errors import GraphError, RecipeError
from graphc.ir.program import Program
from graphc.measure.report import write_report
from graphc.pipeline.base import Context
from graphc.pipeline.evaluation import DATA
from graphc.pipeline.metrics import find_metric
from graphc.pipeline.plan import check_metric, plan
from graphc.pipeline.recipe import Recipe

RATIOS = (0.25, 0.5, 0.75)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Probe:
    """One thing compressed alone.

    Attributes:
        title: of the pass that would compress it.
        item: the name of the axis, layer or tensor.
        ratio: the share of it that went.
        metric: what was left of the metric.
    """

    title: str
    item: str
    ratio: float
    metric: float


@dataclass(frozen=True)
class Sensitivity:
    """All probes of a recipe.

    Attributes:
        metric: its name.
        baseline: its value for the program as captured.
        probes: in the order of the passes and of the graph.
        greater_is_better: of the metric.
    """

    metric: str
    baseline: float
    probes: tuple[Probe, ...]
    greater_is_better: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As ``sensitivity.json`` holds it."""
        return asdict(self)

    def rows(self) -> dict[tuple[str, str], dict[float, float]]:
        """For each pass and item the loss of the metric by ratio."""
        found: dict[tuple[str, str], dict[float, float]] = {}
        for probe in self.probes:
            drop = self.baseline - probe.metric
            found.setdefault((probe.title, probe.item), {})[probe.ratio] = drop if self.greater_is_better else -drop
        return found


def sensitivity(
    recipe: Recipe,
    folder: Path,
    ratios: Sequence[float] = RATIOS,
    jobs: int = 1,
    progress: Progress = lambda done, total, text: None,
) -> Sensitivity:
    """Probe everything that the passes of a recipe would compress.

    Args:
        recipe: with a metric and ``eval`` data; each pass is probed on the program as captured.
        folder: where ``sensitivity.json`` goes, and what is known on the way.
        ratios: shares to compress by, each between 0 and 1; what is whole (a layer) has one probe, at 1.
        jobs: processes; each has the model and one thread.
        progress: called with (done, total, text).

    Raises:
        GraphError: the recipe has no metric, no ``eval`` data or nothing to probe, or a ratio is wrong.
    """
    if recipe.metric is None:
        raise RecipeError("sensitivity needs a metric", where="metric", hint="add `metric: accuracy` to the recipe")
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise GraphError(f"ratios cannot be {list(ratios)}", where="--ratios", hint="give numbers between 0 and 1")
    check_metric(recipe.metric, recipe.data)
    known = _Known(folder, recipe)
    bench = _Bench(recipe)
    todo = list(bench.everything(ratios))
    if not todo:
        raise GraphError("there is nothing to probe", where="passes", why="no pass of the recipe compresses by a ratio")
    if known.baseline is None:
        known.add(None, bench.baseline())
    open_ = [key for key in todo if key not in known.found]
    done = len(todo) - len(open_)
    for key, value in _taken(bench, open_, jobs):
        known.add(key, value)
        done += 1
        progress(done, len(todo), f"{key[1]} at {key[2]:.0%}")
    assert known.baseline is not None
    probes = tuple(Probe(*key, known.found[key]) for key in todo)
    result = Sensitivity(recipe.metric, known.baseline, probes, bench.metric.greater_is_better)
    write_report(result.to_dict(), folder / "sensitivity.json")
    known.file.unlink()
    return result


Key = tuple[str, str, float]


class _Bench:
    """A recipe's program with what its passes would compress."""

    def __init__(self, recipe: Recipe) -> None:
        made = plan(recipe)
        self.recipe = recipe
        self.program, self.data = made.original, made.data
        assert recipe.metric is not None
        self.metric = find_metric(recipe.metric, made.original)
        context = Context(made.original, made.data, made.device, made.seed)
        torch.manual_seed(made.seed)
        self.probes: dict[str, Mapping[str, Callable[[float], Program]]] = {}
        for item in made.passes:
            item.requires(made.original)
            self.probes[item.title] = item.probes(made.original, context)
        self.whole = {item.title: item.whole for item in made.passes}

    def everything(self, ratios: Sequence[float]) -> Iterator[Key]:
        for title, items in self.probes.items():
            for name in items:
                for ratio in (1.0,) if self.whole[title] else ratios:
                    yield title, name, ratio

    def baseline(self) -> float:
        return self.value(self.program)

    def take(self, key: Key) -> float:
        title, name, ratio = key
        return self.value(self.probes[title][name](ratio))

    def value(self, program: Program) -> float:
        return self.metric(program, self.data[DATA]())


class _Known:
    """What is known so far, in a file beside the result; of another recipe nothing is."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "sensitivity.partial.jsonl"
        self.found: dict[Key, float] = {}
        self.baseline: float | None = None
        digest = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        if lines[:1] != [digest]:
            self.file.write_text(digest + "\n", encoding="utf-8")
            lines = []
        for line in lines[1:]:
            self._keep(*json.loads(line))

    def _keep(self, key: Sequence[Any] | None, value: float) -> None:
        if key is None:
            self.baseline = value
        else:
            title, name, ratio = key
            self.found[title, name, ratio] = value

    def add(self, key: Key | None, value: float) -> None:
        self._keep(key, value)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps([key, value]) + "\n")


_bench: _Bench | None = None


def _start(recipe: Recipe) -> None:
    global _bench  # a worker process has one
    torch.set_num_threads(1)
    _bench = _Bench(recipe)


def _take(key: Key) -> float:
    assert _bench is not None
    return _bench.take(key)


def _taken(bench: _Bench, todo: Sequence[Key], jobs: int) -> Iterator[tuple[Key, float]]:
    if jobs == 1:
        yield from ((key, bench.take(key)) for key in todo)
        return
    start = partial(_start, bench.recipe)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), start) as pool:
        yield from zip(todo, pool.map(_take, todo), strict=True)
