"""A layered layout of a graph without circles: every edge goes down, few cross (Sugiyama et al. 1981)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

SWEEPS = 12
BETWEEN = 22.0
"""At least, of two boxes beside each other."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Bend:
    """Where an edge passes a layer between its ends."""

    start: Hashable
    end: Hashable
    layer: int


@dataclass(frozen=True)
class Layout:
    """Where everything is.

    Attributes:
        centers: of nodes.
        paths: of edges: from the lower rim of one box to the upper rim of another, and how they bend between.
        width, height: of all.
    """

    centers: Mapping[Hashable, Point]
    paths: Mapping[tuple[Hashable, Hashable], Sequence[Point]]
    width: float
    height: float


def layered(graph: nx.DiGraph[Hashable], sizes: Mapping[Hashable, Point], apart: float = 30.0) -> Layout:
    """Place the nodes of a graph.

    Args:
        graph: without circles.
        sizes: width and height of each node's box.
        apart: at least, of two layers.
    """
    whole, layers = _with_bends(graph)
    widths = {node: sizes[node][0] if node in sizes else 8.0 for node in whole}
    for sweep in range(SWEEPS):
        _order(whole, layers, down=sweep % 2 == 0)
    xs = _across(whole, layers, widths)
    ys: dict[Hashable, float] = {}
    top = 0.0
    for layer in layers:
        high = max(sizes[node][1] if node in sizes else 0.0 for node in layer)
        ys |= dict.fromkeys(layer, top + high / 2)
        top += high + apart
    left = min(xs[node] - widths[node] / 2 for node in whole)
    places = {node: (xs[node] - left, ys[node]) for node in whole}
    width = max(x + widths[node] / 2 for node, (x, _) in places.items())
    paths = {edge: _path(edge, whole, places, sizes) for edge in graph.edges}
    return Layout({node: places[node] for node in graph}, paths, width, top - apart)


def _with_bends(graph: nx.DiGraph[Hashable]) -> tuple[nx.DiGraph[Hashable], list[list[Hashable]]]:
    """The graph with a bend in every layer that an edge passes, and its layers; nodes are near their readers."""
    rank = {node: i for i, layer in enumerate(nx.topological_generations(graph)) for node in layer}
    for node in reversed(list(nx.topological_sort(graph))):
        if graph.out_degree(node):
            rank[node] = min(rank[other] for other in graph.successors(node)) - 1
    whole: nx.DiGraph[Hashable] = nx.DiGraph()
    layers: list[list[Hashable]] = [[] for _ in range(max(rank.values()) + 1)]
    for node in graph:
        whole.add_node(node)
        layers[rank[node]].append(node)
    for start, end in graph.edges:
        bends = [Bend(start, end, layer) for layer in range(rank[start] + 1, rank[end])]
        for bend in bends:
            layers[bend.layer].append(bend)
        nx.add_path(whole, [start, *bends, end])
    return whole, layers


def _order(whole: nx.DiGraph[Hashable], layers: list[list[Hashable]], *, down: bool) -> None:
    """Order each layer by the mean place of neighbours in the layer before it."""
    sequence = layers[1:] if down else layers[-2::-1]
    place = {node: i for layer in layers for i, node in enumerate(layer)}
    for layer in sequence:
        means = {}
        for node in layer:
            beside = list(whole.predecessors(node) if down else whole.successors(node))
            means[node] = sum(place[other] for other in beside) / len(beside) if beside else place[node]
        layer.sort(key=means.__getitem__)
        place |= {node: i for i, node in enumerate(layer)}


def _across(
    whole: nx.DiGraph[Hashable], layers: Sequence[Sequence[Hashable]], widths: Mapping[Hashable, float]
) -> dict[Hashable, float]:
    """How far from the left: each node near the middle of its neighbours, in the order of its layer."""
    xs: dict[Hashable, float] = {}
    for layer in layers:
        xs |= _spread(layer, dict.fromkeys(layer, 0.0), widths)
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = {}
            for node in layer:
                above, below = list(whole.predecessors(node)), list(whole.successors(node))
                beside = (above or below) if sweep % 2 == 0 else (below or above)
                wanted[node] = sum(xs[other] for other in beside) / len(beside) if beside else xs[node]
            xs |= _spread(layer, wanted, widths)
    return xs


def _spread(
    layer: Sequence[Hashable], wanted: Mapping[Hashable, float], widths: Mapping[Hashable, float]
) -> dict[Hashable, float]:
    """Places near those wanted at which no two boxes meet: the mean of pushing to the right and to the left."""
    right, left = dict(wanted), dict(wanted)
    for a, b in pairwise(layer):
        right[b] = max(right[b], right[a] + (widths[a] + widths[b]) / 2 + BETWEEN)
    for a, b in zip(layer[-2::-1], layer[:0:-1], strict=True):
        left[a] = min(left[a], left[b] - (widths[a] + widths[b]) / 2 - BETWEEN)
    return {node: (right[node] + left[node]) / 2 for node in layer}


def _path(
    edge: tuple[Hashable, Hashable],
    whole: nx.DiGraph[Hashable],
    places: Mapping[Hashable, Point],
    sizes: Mapping[Hashable, Point],
) -> list[Point]:
    start, end = edge
    bends = sorted((n for n in _bends(whole, edge)), key=lambda bend: bend.layer)
    (x1, y1), (x2, y2) = places[start], places[end]
    first, last = (x1, y1 + sizes[start][1] / 2), (x2, y2 - sizes[end][1] / 2)
    return [first, *(places[bend] for bend in bends), last]


def _bends(whole: nx.DiGraph[Hashable], edge: tuple[Hashable, Hashable]) -> list[Bend]:
    """Of one edge, found from its start on."""
    start, end = edge
    found: list[Bend] = []
    at: Hashable = start
    while True:
        following = (n for n in whole.successors(at) if isinstance(n, Bend) and (n.start, n.end) == (start, end))
        bend = next(following, None)
        if bend is None:
            return found
        found.append(bend)
        at = bend
