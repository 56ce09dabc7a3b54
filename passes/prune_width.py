"""prune-width: remove hidden units of MLPs, and on request the hidden size of a whole network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from graphc.axes.axis import Axis

from .options import Selection
from .prune import PruneAxes


@dataclass(frozen=True, kw_only=True)
class PruneWidth(PruneAxes):
    """Remove units of linear layers: the inner width of MLPs, gated or not.

    With ``mixed: true`` also the hidden size that norms run over, embedding to head as one axis
    (Muralidharan et al. 2024, Minitron); other units change then, so train afterwards.
    """

    type: ClassVar[str] = "prune-width"
    units: Annotated[Selection, Field(description="Explicit: {layer: [units to remove]}.")] = field(
        default_factory=dict
    )
    mixed: Annotated[bool, Field(description="Also cut axes that a norm or mean runs over.")] = False

    def selection(self) -> Selection:
        """The explicit selection."""
        return self.units

    def owns(self, axis: Axis) -> bool:
        """Axes that a linear layer makes, that are neither heads nor within heads nor filters, nor whole experts."""
        if "width" not in axis.roles or "choices" in axis.roles:
            return False
        other = axis.roles & {"heads", "head_dim", "filters", "repeat"}
        return (not other or (self.mixed and axis.mixed)) and (self.mixed or not axis.mixed)
