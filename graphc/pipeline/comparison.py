"""Comparison: two models that a user names, value by value, on the data of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphc.errors import GraphError
from graphc.measure.deviation import Deviations, compared
from graphc.measure.twins import twins
from graphc.measure.values import OnnxValues, ProgramValues, Values
from graphc.pipeline.batches import batches
from graphc.pipeline.model import Model
from graphc.pipeline.plan import target_loader

SAMPLES = 32
"""How many samples of it, if nothing else is said."""
Progress = Callable[[int, int, str], None]


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
        model.check("compare")
    with_data = next((i for i, model in enumerate(models) if model.data is not None), None)
    _check_wishes(with_data is not None, samples, dims)
    sides = (_values(reference), _values(other))
    twins(*sides)
    if with_data is not None:
        inputs, data = _data(models[with_data], sides[with_data], samples or SAMPLES, progress)
    else:
        inputs, data = _examples(sides, dims or {})
    found = compared(*sides, inputs)
    only = any(isinstance(side, OnnxValues) for side in sides)
    return Comparison(reference.path.name, other.path.name, data, only, found)


def _values(model: Model) -> Values:
    """What a model computes."""
    return OnnxValues(model.path) if model.is_onnx else ProgramValues(model.program(), model.path.name)


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
