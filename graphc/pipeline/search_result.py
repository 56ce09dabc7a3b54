"""What a search found: all candidates, those that none is better than, and a recipe for each of these."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from graphc.measure.environment import environment
from graphc.measure.report import write_report
from graphc.page.search import FILE as PAGE
from graphc.page.search import search_page
from graphc.pipeline.recipe import Recipe

FOLDER = "pareto"
"""Where the recipes go, within the output folder."""
FILE = "search.json"


@dataclass(frozen=True)
class Candidate:
    """A choice of everything, and what came of it.

    Attributes:
        number: of its trial.
        choices: by name.
        figures: metric, macs, params, bytes, latency_ms; of one above a limit perhaps those alone that show it.
        misses: by how much figures are above their limits, as shares of these; negative below.
        refused: why it cannot be; empty if it can.
        pareto: is none at least as good in every objective and better in one?
        recipe: the file of its recipe, within the output folder; None if it has none.
    """

    number: int
    choices: Mapping[str, Any]
    figures: Mapping[str, float]
    misses: Mapping[str, float]
    refused: str = ""
    pareto: bool = False
    recipe: str | None = None

    @property
    def fits(self) -> bool:
        """Is it within all limits?"""
        return not self.refused and all(miss <= 0 for miss in self.misses.values())

    @property
    def worst(self) -> float:
        """Its greatest miss."""
        return max(self.misses.values(), default=0.0)


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        metric: its name; None if none was taken.
        objectives: figures, each with whether greater is better.
        baseline: figures of the model as captured.
        limits: of figures.
        candidates: in the order of their trials.
    """

    metric: str | None
    objectives: Mapping[str, bool]
    baseline: Mapping[str, float]
    limits: Mapping[str, float]
    candidates: tuple[Candidate, ...]

    @property
    def pareto(self) -> list[Candidate]:
        """Those that none is better than, from the least in the last objective."""
        last = list(self.objectives)[-1]
        return sorted((c for c in self.candidates if c.pareto), key=lambda c: c.figures[last])

    @property
    def nearest(self) -> Candidate | None:
        """The candidate that misses its limits least; None if all were refused."""
        return min((c for c in self.candidates if not c.refused), key=lambda c: c.worst, default=None)

    def to_dict(self) -> dict[str, Any]:
        """As ``search.json`` holds it."""
        return asdict(self)


def front(rows: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the rows that no other is better than, the first of equal ones; less is better."""
    found = []
    for i, row in enumerate(rows):
        others = (
            (j < i) if other == row else all(a <= b for a, b in zip(other, row, strict=True))
            for j, other in enumerate(rows)
            if j != i
        )
        if not any(others):
            found.append(i)
    return found


def on_front(candidates: Sequence[Candidate], objectives: Mapping[str, bool]) -> set[int]:
    """Numbers of the candidates that none is better than, of those within all limits."""
    fit = [c for c in candidates if c.fits and set(objectives) <= set(c.figures)]
    rows = [[-c.figures[name] if up else c.figures[name] for name, up in objectives.items()] for c in fit]
    return {fit[i].number for i in front(rows)}


def recipe_file(number: int) -> str:
    """The recipe of a candidate, within the output folder."""
    return f"{FOLDER}/{number}.yaml"


def write(found: Found, passes: Mapping[int, Sequence[Any]], recipe: Recipe, folder: Path, home: Path | None) -> None:
    """Write ``search.json``, ``search.html``, and a recipe for each candidate that none is better than.

    Args:
        found: the result.
        passes: of these candidates, by number.
        recipe: of the search.
        folder: where to.
        home: the folder of the recipe, whose modules its targets may be in.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    kept = {recipe_file(candidate.number) for candidate in found.pareto}
    for path in (folder / FOLDER).glob("*.yaml"):
        if path.stem.isdigit() and f"{FOLDER}/{path.name}" not in kept:
            path.unlink()  # of a search that went on since
    for candidate in found.pareto:
        values = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"search"})
        values["passes"] = list(passes[candidate.number])
        if home is not None:
            others = (".", *recipe.import_from)
            values["import_from"] = [os.path.relpath(home / other, folder / FOLDER) for other in others]
        text = _comment(candidate) + yaml.safe_dump(values, sort_keys=False)
        _write_text(folder / recipe_file(candidate.number), text)
    told = recipe.model_dump(mode="json", exclude_defaults=True)
    page = search_page(found.to_dict(), told, environment(), recipe.model.target)
    write_report(found.to_dict(), folder / FILE, {PAGE: page})


def _comment(candidate: Candidate) -> str:
    return f"# {', '.join(f'{name} {value:.6g}' for name, value in candidate.figures.items())}\n"


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
