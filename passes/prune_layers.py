"""prune-layers: remove whole residual layers by redirecting their output to their input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graphc.coupling import Analysis, analyze
from graphc.coupling.regions import Layer, find_layers, obstacle
from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.edit import redirect
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass

from .calibration import Calibration
from .layer_importance import LAYER_CRITERIA, NEED_DATA
from .measured import losses
from .options import DataName, LossName, Measured, Names, Ratio, Samples
from .select import choose, find

Keep = Literal["every second", "first and last"]


@dataclass(frozen=True, kw_only=True)
class PruneLayers(Pass):
    """Remove whole layers: encoder and decoder layers, bottlenecks, any residual block.

    A layer is found by module path, or as a single-entry single-exit region of the graph, and must
    give back the shape that it takes. Sajjad et al. 2023, On the Effect of Dropping Layers of Pre-trained Transformer
    Models; Men et al. 2024, ShortGPT, for ``block_influence``.
    """

    type: ClassVar[str] = "prune-layers"
    whole: ClassVar[bool] = True
    layers: Annotated[tuple[int | str, ...], Field(description="Explicit: numbers or module paths to remove.")] = ()
    keep: Annotated[Keep | None, Field(description="Of each stack of layers: every second, or first and last.")] = None
    pruning_ratio: Ratio = None
    importance: Annotated[str, Field(description=f"How layers are scored: {', '.join(sorted(LAYER_CRITERIA))}.")] = "l2"
    sensitivity: Measured = None
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    loss: LossName = "cross-entropy"
    targets: Names = ()
    ignore: Names = ()

    def __post_init__(self) -> None:
        """Check the options, and that exactly one way of choosing is given."""
        super().__post_init__()
        if sum([bool(self.layers), self.keep is not None, self.pruning_ratio is not None]) != 1:
            raise RecipeError(
                "prune-layers needs exactly one of layers, keep and pruning_ratio",
                where=f"pass {self.title}",
                hint="see `graphc passes prune-layers`",
            )
        if self.importance not in LAYER_CRITERIA:
            hint = nearest(self.importance, LAYER_CRITERIA)
            raise RecipeError(
                f"no importance of layers is called {self.importance!r}", where=f"pass {self.title}", hint=hint
            )

    def needs_data(self) -> Mapping[str, str]:
        """Calibration data, if layers are chosen by a criterion that looks at some."""
        if self.pruning_ratio is None or self.sensitivity is not None or self.importance not in NEED_DATA:
            return {}
        return {self.calibration_data: f"importance: {self.importance}"}

    def needs_memory(self) -> str:
        """Norms of weights are taken tensor by tensor; other criteria run the program."""
        if not self.needs_data():
            return ""
        known = ", ".join(sorted(LAYER_CRITERIA.keys() - set(NEED_DATA)))
        return f"importance: {self.importance} runs the program on data; {known} take one weight after the other"

    def candidates(self, analysis: Analysis) -> list[Layer]:
        """The layers that ``targets`` and ``ignore`` leave.

        Raises:
            GraphError: the program has no layer that can be stepped over.
        """
        found = find_layers(analysis)
        if not found:
            raise GraphError(
                "prune-layers finds no layer to remove",
                where=f"pass {self.title}",
                why="no residual region of the graph gives back the shape that it takes",
                hint="`graphc explain` lists the layers",
            )
        chosen = choose(found, names_of, self.targets, self.ignore, self.title)
        if not chosen:
            raise GraphError("prune-layers: ignore leaves nothing to remove", where=f"pass {self.title}")
        return chosen

    def requires(self, program: Program) -> None:
        """The layers that are named exist, and can be stepped over."""
        analysis = analyze(program)
        self.named(analysis, self.candidates(analysis))

    def named(self, analysis: Analysis, layers: list[Layer]) -> list[Layer]:
        """The layers that ``layers`` speaks of.

        Raises:
            RecipeError: there is no such layer, or it does not give back the shape that it takes.
        """
        found: list[Layer] = []
        for key in self.layers:
            try:
                found += find(layers, names_of, key, f"pass {self.title}")
            except RecipeError as error:
                why = obstacle(analysis, key) if isinstance(key, str) else None
                if why is None:
                    raise
                raise RecipeError(f"the layer {key!r} cannot be removed", where=error.where, why=why) from error
        return found

    def count(self, layers: Sequence[Layer]) -> int:
        """How many layers a ratio removes; one is always left."""
        assert self.pruning_ratio is not None
        return min(len(layers) - 1, round(len(layers) * self.pruning_ratio))

    def chosen(self, analysis: Analysis, calibration: Calibration) -> list[Layer]:
        """The layers to remove, in graph order.

        Raises:
            GraphError: there are none.
        """
        layers = self.candidates(analysis)
        if self.layers:
            wanted = self.named(analysis, layers)
        elif self.keep is not None:
            wanted = [layer for stack in _stacks(layers) for layer in _dropped(stack, self.keep)]
        else:
            scores = self.scores(analysis, layers, calibration)
            order = sorted(range(len(layers)), key=scores.__getitem__)
            wanted = [layers[i] for i in order[: self.count(layers)]]
        if not wanted:
            why = f"there are {len(layers)} layers"
            raise GraphError("prune-layers has nothing to remove", where=f"pass {self.title}", why=why)
        return [layer for layer in layers if layer in wanted]

    def scores(self, analysis: Analysis, layers: Sequence[Layer], calibration: Calibration) -> list[float]:
        """Importance of each layer: what it was measured to cost, or by the criterion."""
        if self.sensitivity is not None:
            measured = losses(self.sensitivity, [layer.name for layer in layers])
            return [measured[layer.name] for layer in layers]
        return LAYER_CRITERIA[self.importance](analysis, layers, calibration)

    def run(self, program: Program, context: Context) -> Program:
        """Redirect each layer's exit to its entry."""
        calibration = Calibration.of(context, self.calibration_data, self.num_calibration_samples, self.loss)
        layers = self.chosen(analyze(program), calibration)
        return redirect(program, {layer.exit.name: layer.entry.name for layer in layers})

    def probes(self, program: Program, context: Context) -> Mapping[str, Callable[[float], Program]]:
        """Each layer alone, removed."""
        layers = self.candidates(analyze(program))
        return {layer.name: partial(_without, program, layer) for layer in layers}

    def ensures(self, before: Program, after: Program) -> None:
        """As many layers as were asked for have lost their tensors; by name, those that were named."""
        analysis = analyze(before)
        layers, left = self.candidates(analysis), after.tensors()
        gone = [layer for layer in layers if layer.tensors and left.keys().isdisjoint(layer.tensors)]
        expected = (
            layers[: self.count(layers)] if self.pruning_ratio is not None else self.chosen(analysis, Calibration())
        )
        expected = [layer for layer in expected if layer.tensors]
        if len(gone) < len(expected) or (self.pruning_ratio is None and not all(e in gone for e in expected)):
            missing = next((layer.name for layer in expected if layer not in gone), "")
            raise GraphError(f"the layer {missing} is still there", where=f"pass {self.title}")


def _without(program: Program, layer: Layer, ratio: float) -> Program:
    return redirect(program, {layer.exit.name: layer.entry.name})


def names_of(layer: Layer) -> list[str]:
    """Names by which a layer can be spoken of."""
    return [layer.name]


def _stacks(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers that stand beside each other."""
    stacks: dict[str, list[Layer]] = {}
    for layer in layers:
        stacks.setdefault(layer.stack, []).append(layer)
    return list(stacks.values())


def _dropped(stack: Sequence[Layer], keep: Keep) -> Sequence[Layer]:
    return stack[1::2] if keep == "every second" else stack[1:-1]
