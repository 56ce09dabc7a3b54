"""Log: what training measured at every step, as CSV or for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from graphc.errors import RecipeError

Kind = Literal["csv", "tensorboard"]


class Log(Protocol):
    """Takes figures by name, with the step they belong to."""

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Take figures of a step."""

    def flush(self) -> None:
        """Write what was taken."""


class Nothing:
    """Keeps nothing."""

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Forget it."""

    def flush(self) -> None:
        """There is nothing to write."""


class Csv:
    """One row a step; rows of steps that are made again after an interruption are replaced.

    Args:
        path: the file.
        step: steps made before; later rows of an existing file go.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if step and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures to the row of a step."""
        if not self.rows or int(self.rows[-1]["step"]) != step:
            self.rows.append({"step": step})
        self.rows[-1].update(figures)

    def flush(self) -> None:
        """Write the file anew, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.part")
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)


class TensorBoard:
    """Scalars in an event file.

    Args:
        folder: where it goes.
        step: steps made before; what TensorBoard has of later ones is dropped.
        writer: makes a SummaryWriter.
    """

    def __init__(self, folder: Path, step: int, writer: Callable[..., Any]) -> None:
        self.writer = writer(str(folder), purge_step=step + 1 if step else None)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a point to the curve of each figure."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is waiting."""
        self.writer.flush()


def find_writer(kind: Kind | None) -> Callable[..., Any] | None:
    """TensorBoard's writer, if it is asked for, before any long work.

    Raises:
        RecipeError: it is not installed.
    """
    if kind != "tensorboard":
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError as error:
        hint = "pip install tensorboard, or log: csv"
        raise RecipeError("log: tensorboard needs tensorboard", where="log", why=str(error), hint=hint) from error
    found: Callable[..., Any] = SummaryWriter
    return found


def make_log(kind: Kind | None, path: Path | None, step: int) -> Log:
    """A log beside a checkpoint; one that keeps nothing if there is no place or none is asked for."""
    if kind is None or path is None:
        return Nothing()
    writer = find_writer(kind)
    if writer is not None:
        return TensorBoard(path.with_suffix(""), step, writer)
    return Csv(path.with_suffix(".csv"), step)
