"""Charts of rows: each has a label, marks along one scale, and a figure at its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphc.page.svg import NARROW, Element, Place, add, picture, shortened, width_of
from graphc.page.words import ticks

LINE, BAR, PAD = 22.0, 14.0, 10.0
GAP = 14.0
"""Between what belongs to two rows."""


@dataclass(frozen=True)
class Scale:
    """From values to places: what is outside stands at an end."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.left + min(max(part, 0.0), 1.0) * (self.right - self.left)


class Mark(Protocol):
    """What may stand in a row; ``kind`` is its style."""

    def draw(self, root: Element, scale: Scale, top: float, thick: float) -> None:
        """Add it."""


@dataclass(frozen=True)
class Bar:
    """A bar from one value to another."""

    start: float
    end: float
    kind: str

    def draw(self, root: Element, scale: Scale, top: float, thick: float) -> None:
        """Add it; what has any length is seen."""
        start, end = sorted((scale(self.start), scale(self.end)))
        place: Place = {"x": start, "y": top, "width": max(end - start, 1.0), "height": thick, "rx": 2.0}
        add(root, "rect", class_=self.kind, **place)


@dataclass(frozen=True)
class Span:
    """A thin line from one value to another, as intervals and ranges are drawn."""

    start: float
    end: float
    kind: str = "span"

    def draw(self, root: Element, scale: Scale, top: float, thick: float) -> None:
        """Add it."""
        place: Place = {"x1": scale(self.start), "x2": scale(self.end), "y1": top + thick / 2, "y2": top + thick / 2}
        add(root, "line", class_=self.kind, **place)


@dataclass(frozen=True)
class Tick:
    """An upright stroke at a value."""

    at: float
    kind: str = "tick"

    def draw(self, root: Element, scale: Scale, top: float, thick: float) -> None:
        """Add it."""
        x = scale(self.at)
        add(root, "line", class_=self.kind, x1=x, x2=x, y1=top - 2, y2=top + thick + 2)


@dataclass(frozen=True)
class Dots:
    """One dot a value; those that would hide each other are heaped."""

    values: tuple[float, ...]
    kind: str

    def draw(self, root: Element, scale: Scale, top: float, thick: float) -> None:
        """Add them: away from the middle, in turns up and down."""
        lanes = [0.0] + [sign * step for step in range(5, int(thick / 2) - 1, 5) for sign in (1, -1)]
        ends = [-1e9] * len(lanes)
        for x in sorted(map(scale, self.values)):
            lane = next((i for i, end in enumerate(ends) if x - end >= 6), min(range(len(ends)), key=ends.__getitem__))
            ends[lane] = x
            add(root, "circle", class_=self.kind, cx=x, cy=top + thick / 2 + lanes[lane], r=3.0)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        label: what it is of.
        figure: its value, as text.
        marks: what is drawn, the first lowest.
    """

    label: str
    figure: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """Rows along one scale.

    Attributes:
        title, description: for those who do not see it.
        rows: from the top.
        low, high: ends of the scale.
        write: makes the text of a number on the scale.
        thick: height of what is drawn of a row.
        reference: a value that an upright line marks.
    """

    title: str
    description: str
    rows: Sequence[Row]
    low: float
    high: float
    write: Callable[[float], str]
    thick: float = BAR
    reference: float | None = None

    def draw(self, key: str, width: float) -> Element:
        """As SVG: labels stand beside what is drawn, or above it where it is narrow."""
        beside = width > NARROW
        labels = min(max(width_of(row.label) for row in self.rows) + PAD, 0.42 * width) if beside else 0.0
        figures = max(width_of(row.figure) for row in self.rows) + PAD
        left, right = (labels, width - figures) if beside else (0.0, width)
        height = self.thick + (GAP if beside else GAP + LINE)
        bottom = height * len(self.rows)
        root = picture(key, width, bottom + LINE + 4, self.title, self.description)
        scale = Scale(self.low, self.high, left + 6, right - 6)
        self._axis(root, scale, bottom)
        for i, row in enumerate(self.rows):
            top = i * height + GAP / 2 + (0 if beside else LINE)
            middle = top + self.thick / 2 if beside else top - LINE / 2
            text = shortened(row.label, labels - PAD if beside else width - figures)
            add(root, "text", text, x=0, y=middle, class_="label", dominant_baseline="central")
            place: Place = {"x": width, "y": middle, "text_anchor": "end", "dominant_baseline": "central"}
            add(root, "text", row.figure, class_="figure", **place)
            for mark in row.marks:
                mark.draw(root, scale, top, self.thick)
        return root

    def _axis(self, root: Element, scale: Scale, bottom: float) -> None:
        """Lines at round numbers, with these below as far as there is room."""
        end = 0.0
        for value in ticks(self.low, self.high, 4):
            x, text = scale(value), self.write(value)
            add(root, "line", x1=x, x2=x, y1=2, y2=bottom + 2, class_="grid")
            half = width_of(text, 12) / 2
            at = min(max(x, scale.left - 6 + half), scale.right + 6 - half)
            if at - half >= end:
                place: Place = {"x": at, "y": bottom + LINE - 4, "text_anchor": "middle"}
                add(root, "text", text, class_="scale", **place)
                end = at + half + 8
        if self.reference is not None:
            x = scale(self.reference)
            add(root, "line", x1=x, x2=x, y1=2, y2=bottom + 2, class_="reference")
