"""A diagram: boxes of text and arrows between them, as SVG."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx

from graphc.errors import GraphError
from graphc.page.layered import Layout, Point, layered
from graphc.page.svg import Element, Place, add, picture, shortened, width_of

LINE = 17.0
PAD = 11.0
BOLD = 1.12
"""How much wider bold letters are."""
WIDEST = 260.0
MARGIN = 6.0
MOST = 1500
"""Boxes of a drawing that anybody reads."""


@dataclass(frozen=True)
class Box:
    """A box.

    Attributes:
        head: lines of text that say what it is.
        more: lines below.
        kind: its style: cut, passes, ends.
    """

    head: tuple[str, ...]
    more: tuple[str, ...]
    kind: str

    @property
    def size(self) -> Point:
        """Width and height."""
        widest = max(*(BOLD * width_of(line) for line in self.head), *(width_of(line, 12) for line in self.more), 0.0)
        return min(widest, WIDEST) + 2 * PAD, LINE * len(self.head + self.more) + PAD


@dataclass(frozen=True)
class Diagram:
    """Boxes by name, and arrows between them.

    Attributes:
        title, description: for those who do not see it, and above and below it for those who do.
        boxes: what is in them.
        arrows: pairs of names, without a circle.
    """

    title: str
    description: str
    boxes: Mapping[Hashable, Box]
    arrows: Sequence[tuple[Hashable, Hashable]]

    def draw(self, key: str) -> Element:
        """As SVG of its natural size.

        Raises:
            GraphError: there is nothing to draw, or too much to be read.
        """
        if not 0 < len(self.boxes) <= MOST:
            why = f"it has {len(self.boxes)} boxes; {MOST} can be read"
            raise GraphError("this cannot be drawn", where=self.title, why=why, hint="draw an axis (--axis NAME)")
        graph: nx.DiGraph[Hashable] = nx.DiGraph()
        graph.add_nodes_from(self.boxes)
        graph.add_edges_from(self.arrows)
        placed = layered(graph, {name: box.size for name, box in self.boxes.items()})
        width, height = placed.width + 2 * MARGIN, placed.height + 2 * MARGIN
        root = picture(key, width, height, self.title, self.description)
        head = add(add(root, "defs"), "marker", id=f"{key}-head", viewBox="0 0 8 8", refX=7, refY=4, orient="auto")
        head.attrib |= {"markerWidth": "7", "markerHeight": "7"}
        add(head, "path", d="M0 0L8 4L0 8z", class_="head")
        everything = add(root, "g", transform=f"translate({MARGIN} {MARGIN})")
        for path in placed.paths.values():
            add(everything, "path", d=_curve(path), class_="arrow", marker_end=f"url(#{key}-head)")
        for name, box in self.boxes.items():
            _draw(everything, box, placed, name)
        return root


def _draw(parent: Element, box: Box, placed: Layout, name: Hashable) -> None:
    (x, y), (width, height) = placed.centers[name], box.size
    place: Place = {"x": x - width / 2, "y": y - height / 2, "width": width, "height": height, "rx": 6.0}
    add(parent, "rect", class_=f"box-{box.kind}", **place)
    for i, line in enumerate(box.head + box.more):
        style, text = ("name", line) if i < len(box.head) else ("more", shortened(line, WIDEST, 12))
        at: Place = {"x": x, "y": y - height / 2 + PAD / 2 + LINE * (i + 0.5)}
        add(parent, "text", text, class_=style, text_anchor="middle", dominant_baseline="central", **at)


def _curve(path: Sequence[Point]) -> str:
    """A smooth line through points that leaves and arrives upright."""
    words = [f"M{path[0][0]:.1f} {path[0][1]:.1f}"]
    for (x1, y1), (x2, y2) in pairwise(path):
        middle = (y1 + y2) / 2
        words.append(f"C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}")
    return "".join(words)
