"""prune-layers: remove whole residual layers by redirecting their output to their input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graphc.coupling import analyze
from graphc.coupling.regions import Layer, find_layers
from graphc.errors import GraphError, RecipeError
from graphc.ir.edit import redirect
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass

from .prune import Importance, Names, Ratio
from .select import choose, find


@dataclass(frozen=True, kw_only=True)
class PruneLayers(Pass):
    """Remove whole layers: encoder and decoder layers, bottlenecks, any residual block.

    A layer is found by module path, or as a single-entry single-exit region of the graph, and must
    give back the shape that it takes.
    """

    type: ClassVar[str] = "prune-layers"
    layers: Annotated[tuple[int | str, ...], Field(description="Explicit: numbers or module paths to remove.")] = ()
    pruning_ratio: Ratio = None
    importance: Importance = "l2"
    targets: Names = ()
    ignore: Names = ()

    def __post_init__(self) -> None:
        """Check the options, and that exactly one way of choosing is given."""
        super().__post_init__()
        if bool(self.layers) == (self.pruning_ratio is not None):
            raise RecipeError(
                "prune-layers needs exactly one of layers and pruning_ratio",
                where=f"pass {self.title}",
                hint="see `graphc passes prune-layers`",
            )

    def candidates(self, program: Program) -> list[Layer]:
        """The layers that ``targets`` and ``ignore`` leave.

        Raises:
            GraphError: the program has no layer that can be stepped over.
        """
        found = find_layers(analyze(program))
        if not found:
            raise GraphError(
                "prune-layers finds no layer to remove",
                where=f"pass {self.title}",
                why="no residual region of the graph gives back the shape that it takes",
                hint="`graphc explain` lists the layers",
            )
        return choose(found, names_of, self.targets, self.ignore, self.title)

    def requires(self, program: Program) -> None:
        """The chosen layers exist."""
        self.chosen(program)

    def chosen(self, program: Program) -> list[Layer]:
        """The layers to remove, in graph order."""
        layers = self.candidates(program)
        if self.layers:
            wanted = [layer for key in self.layers for layer in find(layers, names_of, key, f"pass {self.title}")]
        else:
            assert self.pruning_ratio is not None
            count = min(len(layers) - 1, round(len(layers) * self.pruning_ratio))
            wanted = sorted(layers, key=lambda layer: self.score(program, layer))[:count]
        return [layer for layer in layers if layer in wanted]

    def score(self, program: Program, layer: Layer) -> float:
        """Mean magnitude (l1) or root mean square (l2) of the layer's weights."""
        tensors = program.tensors()
        weights = [tensors[name].detach().double() for name in layer.tensors]
        entries = sum(w.numel() for w in weights)
        if self.importance == "l1":
            return float(sum(w.abs().sum() for w in weights)) / entries
        return math.sqrt(float(sum(w.square().sum() for w in weights)) / entries)

    def run(self, program: Program, context: Context) -> Program:
        """Redirect each layer's exit to its entry."""
        changes = {layer.exit.name: layer.entry.name for layer in self.chosen(program)}
        return redirect(program, changes)

    def ensures(self, before: Program, after: Program) -> None:
        """The layers' own tensors are gone."""
        left = set(after.tensors())
        for layer in self.chosen(before):
            kept = left.intersection(layer.tensors)
            if kept:
                raise GraphError(f"the layer {layer.name} is still there", why=f"{sorted(kept)[0]} is still used")


def names_of(layer: Layer) -> list[str]:
    """Names by which a layer can be spoken of."""
    return [layer.name]
