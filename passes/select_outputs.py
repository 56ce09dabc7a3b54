"""select-outputs: keep some outputs, and drop what only the others needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graphc.ir.contract import Contract
from graphc.ir.outputs import select_outputs, with_outputs
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass


@dataclass(frozen=True, kw_only=True)
class SelectOutputs(Pass):
    """Keep some outputs: DistilBERT (Sanh et al. 2019) has BERT's hidden states, and no pooler.

    Outputs keep their names and their order. Losses and metrics compare outputs of one name.
    """

    type: ClassVar[str] = "select-outputs"
    whole: ClassVar[bool] = True
    outputs: Annotated[tuple[str | int, ...], Field(description="Names of the outputs that stay, or their numbers.")]

    def promises(self, contract: Contract) -> Contract:
        """Fewer outputs."""
        return with_outputs(contract, self.outputs)

    def needs_memory(self) -> str:
        """It reads no weight."""
        return ""

    def run(self, program: Program, context: Context) -> Program:
        """Select, and drop dead code."""
        return select_outputs(program, self.outputs)

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """Which outputs are gone, and what was only for them."""
        kept = {spec.name for spec in after.contract.outputs}
        dropped = [spec.name for spec in before.contract.outputs if spec.name not in kept]
        first, left = before.tensors(), after.tensors()
        saved = sum(value.numel() for name, value in first.items() if name not in left)
        says = [f"without {', '.join(dropped)}, and {saved:,} numbers that only they needed"] if dropped else []
        return {"dropped": dropped, "says": says}
