"""Models that a user names: a recipe, which stands for its model before any pass, or an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphc.emitters.base import load
from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.pipeline.plan import captured
from graphc.pipeline.recipe import Recipe

DATA = ("calibration", "eval")
"""The data of a recipe that is taken, the first that it has."""


@dataclass(frozen=True)
class Model:
    """What a user names.

    Attributes:
        path: of the file or folder.
        recipe: what is in it, if it is one: it stands for its model, before any pass.
    """

    path: Path
    recipe: Recipe | None = None

    @property
    def data(self) -> str | None:
        """The name of its data."""
        return next((name for name in DATA if self.recipe is not None and name in self.recipe.data), None)

    @property
    def is_onnx(self) -> bool:
        """Is it an ``.onnx`` file, which no program can be read from?"""
        return self.path.suffix == ".onnx"

    def check(self, doing: str) -> None:
        """See that there is something, before any work.

        Args:
            doing: what it is for: ``compare``.

        Raises:
            GraphError: there is not.
        """
        kinds = "a recipe (.yaml), a .pt2 file, a folder that graphc wrote, or an .onnx file"
        if not self.path.exists():
            raise GraphError(f"there is nothing to {doing}", where=str(self.path), why="it does not exist")
        if self.recipe is None and not self.path.is_dir() and self.path.suffix not in (".pt2", ".onnx"):
            raise GraphError(f"cannot {doing} {self.path.name}", where=str(self.path), hint=f"give {kinds}")

    def program(self) -> Program:
        """What it is, if it is no ``.onnx`` file.

        Raises:
            GraphError: it cannot be read or captured.
        """
        return captured(self.recipe) if self.recipe is not None else load(self.path)
