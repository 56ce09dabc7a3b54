"""prune-heads: remove attention heads (of grouped-query attention: key/value groups)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from graphc.axes.axis import Axis

from .options import Selection
from .prune import PruneAxes


@dataclass(frozen=True, kw_only=True)
class PruneHeads(PruneAxes):
    """Remove whole attention heads (Michel et al. 2019, Are Sixteen Heads Really Better than One?).

    Query, key, value and output projections shrink with them, fused or not. With grouped-query
    attention a unit is a key/value head together with its queries.
    """

    type: ClassVar[str] = "prune-heads"
    heads: Annotated[Selection, Field(description="Explicit: {layer: [heads to remove]}; a number counts layers.")] = (
        field(default_factory=dict)
    )

    def selection(self) -> Selection:
        """The explicit selection."""
        return self.heads

    def owns(self, axis: Axis) -> bool:
        """Axes that attention runs over side by side."""
        return "heads" in axis.roles and "repeat" not in axis.roles and not axis.mixed
