"""Drawings as SVG files of their own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from graphc.emitters.staging import check_writable, staged
from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.page.coupling import axis_diagram, graph_diagram
from graphc.page.svg import Element
from graphc.page.template import source

PAPER = "svg { background: var(--page); }"


def check_drawing(path: Path) -> None:
    """See that a drawing can be written, before any long work.

    Raises:
        GraphError: it is called something else than ``.svg``, or the folder may not be written.
    """
    if path.suffix != ".svg":
        raise GraphError("a drawing is an SVG file", where=str(path), hint=f"call it {path.stem or 'graph'}.svg")
    check_writable(path)


def write_drawing(program: Program, path: Path, axis: str | None = None) -> Path:
    """Draw what an axis runs through, or the whole graph, as an SVG file that fits a light and a dark page.

    Args:
        program: what to draw.
        path: of the file; it appears whole or not at all.
        axis: the name of an axis; None draws the graph.

    Raises:
        GraphError: no axis has this name, there is too much to draw, or it cannot be written.
    """
    check_drawing(path)
    made = graph_diagram(program) if axis is None else axis_diagram(program, axis)
    root = made.draw("drawing")
    root.set("xmlns", "http://www.w3.org/2000/svg")
    style = Element("style")
    style.text = f"\n{source('colours.css')}{PAPER}\n{source('drawing.css')}"
    root.insert(2, style)
    with staged(path) as inside:
        ET.ElementTree(root).write(inside, encoding="utf-8", xml_declaration=True)
    return path
