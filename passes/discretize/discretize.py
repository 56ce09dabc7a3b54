"""discretize: of a supernet that mixes candidates, the network of the best ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graphc.errors import RecipeError, nearest
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass

from .choice import EdgeScore, Rule
from .genotype import described
from .rewrite import discretized
from .space import Space, find_space

NONE = "none"
Exclude = Annotated[tuple[str, ...], Field(description="Candidates never to choose; [] to choose none as well.")]


@dataclass(frozen=True, kw_only=True)
class Discretize(Pass):
    """Choose in every mixture of candidates, and drop all others with the weights that chose.

    A mixture is a sum of values that are each multiplied by an entry of a softmax or sigmoid of architecture
    parameters, however it is written; it is found in the graph alone. Of each edge the candidate of the greatest weight
    stays, of each node the best edges, with weight 1 (Liu et al. 2019, DARTS). Where edges have weights of their own,
    these count in the comparison (Xu et al. 2020, PC-DARTS). The report has the genotype in DARTS's notation.
    NAS-Bench-201 and others keep all edges and take the best candidate, none or not: ``exclude: []`` and
    ``edges_per_node: null``.
    """

    type: ClassVar[str] = "discretize"
    exclude: Exclude = (NONE,)
    edges_per_node: Annotated[int | None, Field(ge=1, description="Edges that a node keeps; null for all.")] = 2
    edge_score: Annotated[
        EdgeScore, Field(description="What edges and candidates are compared by: softmax weights, or what is before.")
    ] = "weight"

    def run(self, program: Program, context: Context) -> Program:
        """Choose and rewrite."""
        space = find_space(program)
        self._check_names(space)
        choices = space.choose(Rule(self.exclude, self.edges_per_node, self.edge_score))
        result = discretized(program, space, choices)
        context.record(self.title, described(choices, space.cones))
        return result

    def _check_names(self, space: Space) -> None:
        known = {part for names in space.names.values() for name in names for part in (name, name.partition(":")[0])}
        for name in self.exclude:
            if name not in known | {NONE}:
                hint = nearest(name, known)
                raise RecipeError(f"no candidate is called {name!r}", where=f"exclude of {self.title}", hint=hint)
