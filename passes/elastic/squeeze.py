"""Squeeze branches: channels that are multiplied by a gate which is computed from themselves (Hu et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from graphc.axes.axis import Axis
from graphc.coupling import Analysis
from graphc.coupling.regions import own_tensors

from ..contractions import Contraction
from .space import divisible

MUL = torch.ops.aten.mul.Tensor
LONGEST = 40
"""A gate of more ops than this is a part of the network, not a squeeze."""

RULES = ((4, 8), (4, 1), (8, 8), (8, 1), (16, 8), (16, 1))
"""How many channels one inner channel is for, and what the number of those is rounded to: MobileNetV3's, SENet's."""


@dataclass(frozen=True)
class SqueezeBranch:
    """A branch that weighs channels.

    Attributes:
        axis: its inner channels.
        of: the axis of the channels that it weighs, as it enters its first layer.
        nodes: its ops.
        last: its last layer, which takes the inner channels.
    """

    axis: Axis
    of: Axis
    nodes: frozenset[Node]
    last: Contraction


def find_squeezes(analysis: Analysis, places: Sequence[Contraction]) -> tuple[SqueezeBranch, ...]:
    """All squeeze branches in graph order."""
    found: list[SqueezeBranch] = []
    for node in analysis.program.graph.nodes:
        data = [n for n in node.all_input_nodes if n.op == "call_function"]
        if node.target is not MUL or len(data) != 2:
            continue
        for source, gate in (data, data[::-1]):
            region = _between(source, gate)
            squeeze = _squeeze(analysis, [p for p in places if p.node in region], region)
            if squeeze is not None:
                found.append(squeeze)
                break
    return tuple(found)


def rule_of(squeezes: Sequence[SqueezeBranch]) -> tuple[int, int] | None:
    """The rule that all of some squeeze branches follow; None if they follow none.

    Those of EfficientNet are a part of what enters the block, so that they do not follow its inner channels.
    """
    fits = (rule for rule in RULES if all(s.axis.size == divisible(s.of.size // rule[0], rule[1]) for s in squeezes))
    return next(fits, None)


def _between(source: Node, gate: Node) -> frozenset[Node]:
    """The ops that make a gate of a value and of nothing else; empty if others enter, or there are too many."""
    region: set[Node] = set()
    stack, reached = [gate], False
    while stack:
        node = stack.pop()
        if node is source:
            reached = True
        elif node.op == "placeholder" or len(region) > LONGEST:
            return frozenset()
        elif node.op == "call_function" and node not in region:
            region.add(node)
            stack += [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    return frozenset(region) if reached else frozenset()


def _squeeze(analysis: Analysis, places: Sequence[Contraction], region: frozenset[Node]) -> SqueezeBranch | None:
    if len(places) < 2:
        return None
    own = set(own_tensors(set(region)))
    first, last = (analysis.tensors[p.weight][p.dim] for p in (places[0], places[-1]))
    if first is None or last is None:
        return None
    axis = last.root()
    inner = axis.kind == "leaf" and axis.pinned is None and all(name in own for name, _ in axis.members)
    return SqueezeBranch(axis, first.root(), region, places[-1]) if inner else None
