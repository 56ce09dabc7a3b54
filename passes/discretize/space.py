"""Search space: the mixtures of a supernet, the names of their candidates, the parameters that weigh them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.nn import Parameter

from graphc.errors import GraphError
from graphc.ir.program import Program

from .candidates import Cones, name_candidates
from .choice import Choice, Rule, choose
from .mixtures import Edge, Mixture, find_mixtures
from .weights import Row, Weights, find_weights, leaves


@dataclass(frozen=True)
class Space:
    """What a supernet chooses among.

    Attributes:
        weights: of the candidates.
        mixtures: in graph order.
        names: of the candidates of each edge.
        cones: what each value is computed from.
    """

    weights: Weights
    mixtures: Sequence[Mixture]
    names: Mapping[Edge, Sequence[str]]
    cones: Cones

    def choose(self, rule: Rule) -> list[Choice]:
        """What stays of each mixture.

        Raises:
            GraphError: all candidates of an edge are excluded, or a score is not known.
        """
        return [choose(mixture, self.names, rule) for mixture in self.mixtures]

    def rows(self) -> list[Row]:
        """The distributions that the mixtures have their weights from."""
        edges = [edge for mixture in self.mixtures for edge in mixture.edges]
        outer = [edge.outer.row for edge in edges if edge.outer is not None]
        return list(dict.fromkeys([*(edge.row for edge in edges), *outer]))

    def architecture(self) -> list[str]:
        """Names of the architecture parameters; of other tensors that the weights are made of where none is one."""
        found: dict[str, None] = {}
        for source in dict.fromkeys(row.source for row in self.rows()):
            tensors = leaves([source])
            trained = [leaf for leaf in tensors if isinstance(leaf.meta["val"], Parameter)]
            found.update((str(leaf.target), None) for leaf in trained or tensors if leaf.meta["val"].numel() > 1)
        return list(found)


def find_space(program: Program) -> Space:
    """The search space of a supernet, however it is written.

    Raises:
        GraphError: the program mixes nothing; says what was looked for.
    """
    for stored in (False, True):
        weights = find_weights(program, stored)
        mixtures = find_mixtures(program, weights)
        if mixtures:
            cones = Cones(program.graph)
            names = {edge: name_candidates(cones, edge) for mixture in mixtures for edge in mixture.edges}
            return Space(weights, mixtures, names, cones)
    looked = (
        "looked for sums of two or more values that are each multiplied by an entry of a softmax, a sigmoid or another "
        "distribution that is computed from the model's own tensors alone"
    )
    sources = {str(entry.row.source) for entry in find_weights(program).entries}
    found = f"found {', '.join(sorted(sources)[:4])}, but no such sum" if sources else "found no such distribution"
    raise GraphError(
        "the program has no mixture of candidates",
        why=f"{looked}; {found}",
        hint="capture the supernet itself; samples (Gumbel) and choices that are made already are no mixtures",
    )
