"""bind-input: inputs become constants, and what follows from them is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from graphc.errors import GraphError, RecipeError
from graphc.ir.contract import Contract
from graphc.ir.inputs import Value, bind_input, inputs_of, without_input
from graphc.ir.program import Program
from graphc.measure.fidelity import shared_outputs
from graphc.pipeline.base import Context, Pass
from graphc.pipeline.targets import call_target

Constants = Annotated[
    dict[str, bool | int | float | list[Any] | dict[str, Any]],
    Field(
        min_length=1,
        description="For each input a number that fills it, a list, or {target: 'package.module:callable'}.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class BindInput(Pass):
    """Fix inputs to constants, as DistilBERT (Sanh et al. 2019) does with the token types of BERT.

    The program computes what it did for these values and takes the inputs no longer. What follows from them alone is
    computed now; a vector that is then added to what is looked up in a table, or beside a bias, becomes part of that.
    Data may still have the inputs: a teacher that takes them gets them, and the constants where the data has none.
    """

    type: ClassVar[str] = "bind-input"
    whole: ClassVar[bool] = True
    inputs: Constants

    def __post_init__(self) -> None:
        """Check the options, and that what is given as a mapping is a target."""
        super().__post_init__()
        for name, given in self.inputs.items():
            if isinstance(given, dict) and not ("target" in given and given.keys() <= {"target", "kwargs"}):
                hint = "write {target: 'package.module:callable', kwargs: {...}}"
                raise RecipeError(f"the input {name!r} cannot be {given!r}", where=f"pass {self.title}", hint=hint)

    def promises(self, contract: Contract) -> Contract:
        """Fewer inputs."""
        for name, value in self.values().items():
            contract = without_input(contract, name, value)
        return contract

    def values(self) -> dict[str, Value]:
        """The constants by input; targets are called."""
        return {name: self._value(name, given) for name, given in self.inputs.items()}

    def _value(self, name: str, given: Any) -> Value:
        if not isinstance(given, dict):
            value: Value = given
            return value
        found: Any = call_target(given["target"], given.get("kwargs", {}), f"inputs.{name} of {self.title}")
        if isinstance(found, (bool, int, float, list, torch.Tensor)):
            return found
        why = f"it gave a {type(found).__name__}"
        raise RecipeError(f"{given['target']!r} gives no constant", where=f"pass {self.title}", why=why)

    def run(self, program: Program, context: Context) -> Program:
        """Bind one after the other."""
        for name, value in self.values().items():
            program = bind_input(program, name, value)
        return program

    def ensures(self, before: Program, after: Program) -> None:
        """On the example inputs all outputs are what they were."""
        if any(value.device.type == "meta" for value in after.tensors().values()):
            return
        args, kwargs = after.example()
        whole = inputs_of(before.contract, after.contract, args, kwargs, {})
        with torch.no_grad():
            first, second = before(*whole[0], **whole[1]), after(*args, **kwargs)
        for name, x, y in shared_outputs(before.contract, first, after.contract, second):
            if x.is_floating_point() and not _close(x, y):
                raise GraphError(f"the output {name!r} is no longer what it was", where=f"pass {self.title}")

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """Which tensors are gone, and which took their part."""
        first, second = before.tensors(), after.tensors()
        gone = sorted(first.keys() - second.keys())
        changed = sorted(name for name in first.keys() & second.keys() if first[name] is not second[name])
        says = [f"{', '.join(self.inputs)} constant"]
        says += [f"no longer needed: {', '.join(gone)}"] if gone else []
        says += [f"has what followed from it: {name}" for name in changed]
        return {"gone": gone, "changed": changed, "says": says}


def _close(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Equal but for roundings, at the scale of the largest entry."""
    finite = x[torch.isfinite(x)].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    error = max(1e-4, 64 * torch.finfo(x.dtype).eps)
    return torch.allclose(x.double(), y.double(), rtol=error, atol=error * scale, equal_nan=True)
