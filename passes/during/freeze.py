"""freeze: leave some parameters as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch.nn import Parameter

from graphc.ir.program import Program

from ..select import choose
from .hook import Hook


@dataclass(frozen=True, kw_only=True)
class Freeze(Hook):
    """Parameters of these names are not trained. Running statistics of batch norms still follow the data."""

    type: ClassVar[str] = "freeze"
    targets: Annotated[
        tuple[str, ...], Field(min_length=1, description="Module paths, parameters, or patterns written re:...")
    ]
    ignore: Annotated[tuple[str, ...], Field(description="What of them is trained all the same.")] = ()

    def frozen(self, program: Program) -> frozenset[str]:
        """The parameters that the names speak of.

        Raises:
            RecipeError: a name matches nothing.
        """
        names = [name for name, value in program.tensors().items() if isinstance(value, Parameter)]
        return frozenset(choose(names, lambda name: [name], self.targets, self.ignore, self.type))
