"""Drawings of axes, from a real analysis: each value of a program with its dims, coloured by the axes that they are."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
import torch
from torch.fx import Node

import graphc
from generate.examples import EXAMPLES
from generate.text import code, table
from graphc.axes.axis import Axis
from graphc.coupling.flow import Analysis, analyze
from graphc.ir.graph import module_path
from graphc.ir.text import operator_name
from graphc.page.layered import layered
from graphc.page.svg import Element, add, markup, picture, width_of

LETTERS = "abcdefgh"
LINE, PAD, PILL, GAP, LABEL = 23.0, 8.0, 18.0, 4.0, 44.0
MARGIN = 4.0

Token = Axis | str | int
"""A leaf, a piece of text, or a dim that is of no axis."""


@dataclass(frozen=True)
class Row:
    """A tensor in a box: what it is, and its dims."""

    label: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Drawn:
    """A program's boxes, and a letter for each axis that can be cut."""

    analysis: Analysis
    letters: Mapping[Axis, str]
    boxes: Mapping[Node, tuple[str, list[Row]]]


def drawing(name: str) -> str:
    """Source, drawing and table of an example, and what a cut changes."""
    kind, example = EXAMPLES[name]
    torch.manual_seed(0)
    program = graphc.capture(kind().eval(), (example,))
    analysis = analyze(program)
    letters = dict(zip((axis for axis in analysis.axes if axis.pinned is None), LETTERS))
    drawn = Drawn(analysis, letters, _boxes(analysis))
    source = inspect.getsource(kind).strip()
    figure = f'<figure class="axes" markdown="0">{markup(_draw(name, drawn))}</figure>'
    return f"```python\n{source}\n```\n\n{figure}\n\n{_legend(letters)}\n\n{_cut(program, analysis)}"


def _boxes(analysis: Analysis) -> dict[Node, tuple[str, list[Row]]]:
    found: dict[Node, tuple[str, list[Row]]] = {}
    for node in analysis.program.graph.nodes:
        if node.op == "placeholder":
            found[node] = (f"input {node.name}", [Row("", _dims(analysis, node))])
        elif node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor):
            path = module_path(node)
            title = f"{operator_name(node).split('.')[1]}{f' of {path}' if path else ''}"
            weights = [Row(str(n.target).rpartition(".")[2], _dims(analysis, n)) for n in _tensors(node)]
            found[node] = (title, [*weights, Row("gives", _dims(analysis, node))])
    return found


def _tensors(node: Node) -> Iterable[Node]:
    return (n for n in node.all_input_nodes if n.op == "get_attr")


def _dims(analysis: Analysis, node: Node) -> tuple[Token, ...]:
    layout: Any = analysis.tensors[str(node.target)] if node.op == "get_attr" else analysis.values[node]
    tokens: list[Token] = []
    for axis in layout:
        tokens += [1] if axis is None else _tokens(axis.root(), outermost=True)
    return tuple(tokens)


def _tokens(axis: Axis, outermost: bool = False) -> list[Token]:
    """``(4 6)`` of a product, ``(8 + 12)`` of a sum."""
    if axis.kind == "leaf":
        return [axis]
    between: list[Token] = ["+"] if axis.kind == "sum" else []
    inside: list[Token] = []
    for i, part in enumerate(axis.parts):
        inside += [*(between if i else []), *_tokens(part.root())]
    return ["(", *inside, ")"]


def _width(token: Token, letters: Mapping[Axis, str]) -> float:
    return 8.0 if isinstance(token, str) else max(24.0, width_of(_text(token, letters), 12) + 10)


def _text(token: Token, letters: Mapping[Axis, str]) -> str:
    if isinstance(token, Axis):
        return f"{letters[token]} {token.size}" if token in letters else str(token.size)
    return str(token)


def _row_width(row: Row, letters: Mapping[Axis, str]) -> float:
    return LABEL + sum(_width(token, letters) + GAP for token in row.tokens)


def _draw(name: str, drawn: Drawn) -> Element:
    graph: nx.DiGraph[Any] = nx.DiGraph()
    graph.add_nodes_from(drawn.boxes)
    graph.add_edges_from((n, node) for node in drawn.boxes for n in node.all_input_nodes if n in drawn.boxes)
    sizes = {
        node: (
            max(width_of(title, 13), *(_row_width(row, drawn.letters) for row in rows)) + 2 * PAD,
            LINE * (1 + len(rows)) + PAD,
        )
        for node, (title, rows) in drawn.boxes.items()
    }
    placed = layered(graph, sizes, apart=34)
    free = ", ".join(f"{letter} is {axis.name}" for axis, letter in drawn.letters.items())
    root = picture(f"axes-{name}", placed.width + 2 * MARGIN, placed.height + 2 * MARGIN, f"Axes of {name}", free)
    whole = add(root, "g", transform=f"translate({MARGIN} {MARGIN})")
    for path in placed.paths.values():
        add(whole, "path", d=_curve(path), class_="edge")
    for node, (title, rows) in drawn.boxes.items():
        _box(whole, (placed.centers[node], sizes[node]), title, rows, drawn.letters)
    return root


def _curve(path: Sequence[tuple[float, float]]) -> str:
    """A smooth line that leaves and arrives upright."""
    words = [f"M{path[0][0]:.1f} {path[0][1]:.1f}"]
    for (x1, y1), (x2, y2) in pairwise(path):
        middle = (y1 + y2) / 2
        words.append(f"C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}")
    return "".join(words)


def _box(parent: Element, place: Any, title: str, rows: Sequence[Row], letters: Mapping[Axis, str]) -> None:
    (x, y), (width, height) = place
    left, top = x - width / 2, y - height / 2
    add(parent, "rect", x=left, y=top, width=width, height=height, rx=6, class_="box")
    add(parent, "text", title, x=left + PAD, y=top + PAD / 2 + LINE / 2, class_="title", dominant_baseline="central")
    for i, row in enumerate(rows):
        middle = top + PAD / 2 + LINE * (i + 1.5)
        add(parent, "text", row.label, x=left + PAD, y=middle, class_="label", dominant_baseline="central")
        at = left + PAD + LABEL
        for token in row.tokens:
            _pill(parent, at, middle, token, letters)
            at += _width(token, letters) + GAP


def _pill(parent: Element, at: float, middle: float, token: Token, letters: Mapping[Axis, str]) -> None:
    width = _width(token, letters)
    if not isinstance(token, str):
        style = f"axis-{letters[token]}" if isinstance(token, Axis) and token in letters else "axis-none"
        add(parent, "rect", x=at, y=middle - PILL / 2, width=width, height=PILL, rx=4, class_=style)
    add(
        parent,
        "text",
        _text(token, letters),
        x=at + width / 2,
        y=middle,
        class_="size" if not isinstance(token, str) else "label",
        text_anchor="middle",
        dominant_baseline="central",
    )


def _legend(letters: Mapping[Axis, str]) -> str:
    rows = []
    for axis, letter in letters.items():
        members = ", ".join(f"{code(name)} dim {dim}" for name, dim in axis.members)
        badge = f'<span class="axis axis-{letter}">{letter}</span>'
        rows.append((badge, code(axis.name), str(axis.size), members))
    return table(("", "axis", "size", "where it is"), rows)


def _cut(program: graphc.Program, analysis: Analysis) -> str:
    """What becomes of the tensors when the first free axis loses every second unit."""
    axis = next(axis for axis in analysis.axes if axis.pinned is None)
    half = graphc.slice(program, {axis.name: range(0, axis.size, 2)})
    after = half.tensors()
    changed = [
        (code(name), "x".join(map(str, value.shape)), "x".join(map(str, after[name].shape)))
        for name, value in program.tensors().items()
        if value.shape != after[name].shape
    ]
    text = f'`graphc.slice(program, {{"{axis.name}": range(0, {axis.size}, 2)}})` changes:'
    return f"{text}\n\n{table(('tensor', 'before', 'after'), changed)}"
