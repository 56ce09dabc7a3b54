"""The choice: of every edge one candidate, of every node some edges (Liu et al. 2019, section 2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.fx import Node

from graphc.errors import GraphError

from .mixtures import Edge, Mixture

EdgeScore = Literal["weight", "logit"]


@dataclass(frozen=True)
class Rule:
    """How to choose.

    Attributes:
        exclude: names of candidates that are never chosen.
        edges_per_node: how many edges a node keeps; None for all.
        edge_score: by what edges are compared.
    """

    exclude: Sequence[str] = ("none",)
    edges_per_node: int | None = 2
    edge_score: EdgeScore = "weight"


@dataclass(frozen=True, eq=False)
class Pick:
    """An edge that stays, and what stays of it.

    Attributes:
        edge: of the mixture.
        state: counts the edges of the node: the number of the state that DARTS's genotype gives.
        name: of the candidate.
        score: of the edge among others.
        value: of the candidate; None if the graph does not compute it, because it adds nothing.
    """

    edge: Edge
    state: int
    name: str
    score: float
    value: Node | None


@dataclass(frozen=True, eq=False)
class Choice:
    """What stays of a mixture, the best edge first."""

    mixture: Mixture
    picks: tuple[Pick, ...]


def choose(mixture: Mixture, names: Mapping[Edge, Sequence[str]], rule: Rule) -> Choice:
    """Of each edge the first of the best candidates, of the edges the best, the earlier first among equals.

    Args:
        mixture: has one edge or more; one edge alone always stays.
        names: of the candidates of each edge.
        rule: how to choose.

    Raises:
        GraphError: all candidates of an edge are excluded, or a score is not known or no number.
    """
    picks = [_pick(state, edge, names[edge], rule) for state, edge in enumerate(mixture.edges)]
    return Choice(mixture, tuple(sorted(picks, key=lambda pick: -pick.score)[: rule.edges_per_node]))


def _pick(state: int, edge: Edge, names: Sequence[str], rule: Rule) -> Pick:
    scores = _scores(edge, rule.edge_score)
    places = [place for place, name in enumerate(names) if not {name, name.partition(":")[0]} & set(rule.exclude)]
    if not places:
        raise GraphError(
            f"every candidate of an edge of {edge.row.table} is excluded",
            where=f"row {edge.row.number}",
            why=f"its candidates are {', '.join(names)}",
            hint="exclude fewer",
        )
    best = max(places, key=lambda place: float(scores[place]))
    score = scores[best] if edge.outer is None else scores[best] * edge.outer.weight
    return Pick(edge, state, names[best], float(score), edge.candidates.get(best))


def _scores(edge: Edge, by: EdgeScore) -> torch.Tensor:
    what, hint = f"edges of {edge.row.table} have no logit to compare by", "leave out `edge_score: logit`"
    if by == "logit" and edge.row.logits is None:
        raise GraphError(
            what, why="the weights of its candidates are no softmax or sigmoid of other numbers", hint=hint
        )
    if by == "logit" and edge.outer is not None:
        why = "its edges have weights of their own, which multiply those of the candidates"
        raise GraphError(what, why=why, hint=hint)
    scores = edge.row.weights if by == "weight" or edge.row.logits is None else edge.row.logits
    if not bool(torch.isfinite(edge.row.weights).all()):
        why = f"they are {edge.row.weights.tolist()}"
        raise GraphError(f"weights of {edge.row.table} are not finite", where=f"row {edge.row.number}", why=why)
    return scores
