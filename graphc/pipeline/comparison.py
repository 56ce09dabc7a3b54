"""Comparison: two models that a user names, value by value, on the data of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.emitters.base import load
from graphc.errors import GraphError
from graphc.measure.deviation import Deviations, compared
from graphc.measure.twins import twins
from graphc.measure.values import OnnxValues, ProgramValues, Values
from graphc.pipeline.batches import batches
from graphc.pipeline.plan import captured, target_loader
from graphc.pipeline.recipe import Recipe

DATA = ("calibration", "eval")
"""The data of a recipe that is taken, the first that it has."""
SAMPLES = 32
"""How many samples of it, if nothing else is said."""
Progress = Callable[[int, int, str], None]


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

    def check(self) -> None:
        """See that there is something, before any work.

        Raises:
            GraphError: there is not.
        """
        kinds = "a recipe (.yaml), a .pt2 file, a folder that graphc wrote, or an .onnx file"
        if not self.path.exists():
            raise GraphError("there is nothing to compare", where=str(self.path), why="it does not exist")
        if self.recipe is None and not self.path.is_dir() and self.path.suffix not in (".pt2", ".onnx"):
            raise GraphError(f"cannot compare {self.path.name}", where=str(self.path), hint=f"give {kinds}")

    def values(self) -> Values:
        """What it computes.

        Raises:
            GraphError: it cannot be read or captured.
        """
        if self.path.suffix == ".onnx":
            return OnnxValues(self.path)
        return ProgramValues(captured(self.recipe) if self.recipe is not None else load(self.path), self.path.name)


@dataclass(frozen=True)
class Comparison:
    """What was found, and on what.

    Attributes:
        reference, other: names of the files.
        data: where the inputs are from.
        outputs_only: whether one of the two is an ``.onnx`` file, of which only outputs are seen.
        deviations: of all values.
    """

    reference: str
    other: str
    data: str
    outputs_only: bool
    deviations: Deviations

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        about = {"reference": self.reference, "other": self.other, "data": self.data}
        return {**about, "outputs_only": self.outputs_only, **self.deviations.to_dict()}


def comparison(
    reference: Model,
    other: Model,
    samples: int | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress = lambda done, total, text: None,
) -> Comparison:
    """Compare a model with a reference.

    The inputs are the ``calibration`` or ``eval`` data of the first of the two that is a recipe and has any, else
    the example inputs of the first that is no ``.onnx`` file, else made up.

    Args:
        reference, other: what to compare.
        samples: of that data; 32 if not given.
        dims: sizes of dynamic dims where there is no data; the example's if not given.
        progress: called with (samples done, of how many, text).

    Raises:
        GraphError: a file is not there or no model, the two do not fit together, or there are no such inputs.
    """
    models = (reference, other)
    for model in models:
        model.check()
    with_data = next((i for i, model in enumerate(models) if model.data is not None), None)
    _check_wishes(with_data is not None, samples, dims)
    sides = (reference.values(), other.values())
    twins(*sides)
    if with_data is not None:
        inputs, data = _data(models[with_data], sides[with_data], samples or SAMPLES, progress)
    else:
        inputs, data = _examples(sides, dims or {})
    found = compared(*sides, inputs)
    only = any(isinstance(side, OnnxValues) for side in sides)
    return Comparison(reference.path.name, other.path.name, data, only, found)


def _check_wishes(data: bool, samples: int | None, dims: Mapping[str, int] | None) -> None:
    if samples is not None and not data:
        hint = "add `data: {calibration: {target: 'package.module:callable'}}` to a recipe and compare that"
        raise GraphError(f"there is no data to take {samples} samples of", where="--samples", hint=hint)
    if dims and data:
        raise GraphError("the sizes are those of the data", where="--dim", hint="leave --dim out")


def _data(model: Model, side: Values, samples: int, progress: Progress) -> tuple[Iterator[dict[str, Any]], str]:
    """Batches of a recipe, by name of input."""
    assert model.recipe is not None
    assert model.data is not None
    assert isinstance(side, ProgramValues)
    spec = model.recipe.data[model.data]
    loader = target_loader(model.data, spec.target, spec.kwargs)
    program = side.program

    def inputs() -> Iterator[dict[str, Any]]:
        done = 0
        for batch in batches(program, loader(), samples):
            yield side.named(batch.args, batch.kwargs)
            done += batch.size
            progress(done, samples, "comparing")

    return inputs(), f"at most {samples} samples of the {model.data} data of {side.name}"


def _examples(sides: Sequence[Values], dims: Mapping[str, int]) -> tuple[Iterator[dict[str, Any]], str]:
    """The inputs that a program was captured with, or made up."""
    side = next((side for side in sides if isinstance(side, ProgramValues)), sides[0])
    made = isinstance(side, OnnxValues)
    return iter([side.examples(dims)]), "random inputs" if made else f"the example inputs of {side.name}"
