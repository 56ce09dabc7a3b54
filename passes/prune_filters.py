"""prune-filters: remove output channels of convolutions, and all that is coupled to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from graphc.axes.axis import Axis

from .options import Selection
from .prune import PruneAxes


@dataclass(frozen=True, kw_only=True)
class PruneFilters(PruneAxes):
    """Remove filters of convolutions (Li et al. 2017), through concat, add, view and groups.

    Batch norms, the next layers' input channels and every residual branch shrink with them.
    """

    type: ClassVar[str] = "prune-filters"
    filters: Annotated[Selection, Field(description="Explicit: {layer: [filters to remove]}.")] = field(
        default_factory=dict
    )
    mixed: Annotated[bool, Field(description="Also cut axes that a norm or mean runs over.")] = False

    def selection(self) -> Selection:
        """The explicit selection."""
        return self.filters

    def owns(self, axis: Axis) -> bool:
        """Axes that a convolution makes, or groups of it, that are not heads."""
        roles = axis.roles
        return (
            bool(roles & {"filters", "groups"}) and not roles & {"heads", "head_dim"} and (self.mixed or not axis.mixed)
        )
