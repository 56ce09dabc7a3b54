"""A scatter of candidates: two figures of each, those that none is better than in a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.page.rows import Scale
from graphc.page.svg import NARROW, Element, Place, add, picture, width_of
from graphc.page.words import ticks

LEFT, TOP, BOTTOM = 62.0, 14.0, 44.0
MARGIN = 0.06


@dataclass(frozen=True)
class Point:
    """One candidate.

    Attributes:
        x, y: its figures.
        kind: best, fits, misses, or model for what was given.
        label: drawn beside it; empty for none.
    """

    x: float
    y: float
    kind: str
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """What stands along one side."""

    name: str
    write: Callable[[float], str]


@dataclass(frozen=True)
class Scatter:
    """Points.

    Attributes:
        title, description: for those who do not see it.
        across, up: what the two axes are of.
        points: at least one.
        most: a limit across, if there is one.
        front: corners of a stair between what can be had and what cannot, from the left.
    """

    title: str
    description: str
    across: Axis
    up: Axis
    points: Sequence[Point]
    most: float | None = None
    front: Sequence[tuple[float, float]] = ()

    def draw(self, key: str, width: float) -> Element:
        """As SVG."""
        high = width * (0.8 if width <= NARROW else 0.46)
        root = picture(key, width, high, self.title, self.description)
        xs = [p.x for p in self.points] + ([self.most] if self.most is not None else [])
        across = _scale(xs, LEFT, width - 12)
        up = _scale([p.y for p in self.points], high - BOTTOM, TOP + 12)
        self._axes(root, across, up, width, high)
        if self.most is not None:
            x = across(self.most)
            add(root, "line", x1=x, x2=x, y1=TOP, y2=high - BOTTOM, class_="limit")
        stair = [(across(x), up(y)) for x, y in self.front]
        steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in stair[1:])
        if stair:
            add(root, "path", d=f"M{stair[0][0]:.1f} {stair[0][1]:.1f}{steps}", class_="front")
        for point in sorted(self.points, key=lambda p: p.kind == "best"):
            _dot(root, point, across(point.x), up(point.y))
        taken: list[tuple[float, float, float]] = []
        for point in self.points:
            if point.label:
                _label(root, point, across(point.x), up(point.y), width, taken)
        return root

    def _axes(self, root: Element, across: Scale, up: Scale, width: float, high: float) -> None:
        end = 0.0
        for value in ticks(across.low, across.high, 5):
            x, text = across(value), self.across.write(value)
            half = width_of(text, 12) / 2
            add(root, "line", x1=x, x2=x, y1=TOP, y2=high - BOTTOM, class_="grid")
            at = min(x, width - half)
            if at - half >= end:
                add(root, "text", text, x=at, y=high - BOTTOM + 17, class_="scale", text_anchor="middle")
                end = at + half + 8
        for value in ticks(up.low, up.high, 5):
            y, text = up(value), self.up.write(value)
            add(root, "line", x1=LEFT, x2=width, y1=y, y2=y, class_="grid")
            place: Place = {"x": LEFT - 8, "y": y, "text_anchor": "end", "dominant_baseline": "central"}
            add(root, "text", text, class_="scale", **place)
        add(root, "text", self.across.name, x=(LEFT + width) / 2, y=high - 6, class_="label", text_anchor="middle")
        add(root, "text", self.up.name, x=0, y=TOP - 2, class_="label")


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - margin, high + margin, start, end)


def _dot(root: Element, point: Point, x: float, y: float) -> None:
    if point.kind == "misses":
        add(root, "path", d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8", class_="misses")
    elif point.kind == "model":
        add(root, "path", d=f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z", class_="model")
    else:
        add(root, "circle", cx=x, cy=y, r=6 if point.kind == "best" else 4, class_=point.kind)


def _label(
    root: Element, point: Point, x: float, y: float, width: float, taken: list[tuple[float, float, float]]
) -> None:
    """Beside its point, where no other label is; if there is no such place, none: a table has all."""
    wide = width_of(point.label)
    for anchor, left, top in (("end", x - 8 - wide, y - 9), ("start", x + 9, y), ("middle", x - wide / 2, y - 16)):
        free = all(left > end or left + wide < start or abs(top - y0) > 13 for start, end, y0 in taken)
        if free and left >= 0 and left + wide <= width:
            taken.append((left, left + wide, top))
            at = {"start": left, "end": left + wide, "middle": x}[anchor]
            place: Place = {"x": at, "y": top, "text_anchor": anchor, "dominant_baseline": "central"}
            add(root, "text", point.label, class_="label", **place)
            return
