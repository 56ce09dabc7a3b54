from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections.abc import Hashable
from itertools import pairwise
from pathlib import Path

import networkx as nx
import pytest

import graphc
from graphc.errors import GraphError
from graphc.page import diagram
from graphc.page.coupling import axis_diagram, graph_diagram
from graphc.page.diagram import Box, Diagram
from graphc.page.drawing import write_drawing
from graphc.page.layered import layered
from tests import models

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("seed", range(6))
def test_boxes_do_not_meet_and_arrows_go_down(seed: int) -> None:
    draw = random.Random(seed)
    graph: nx.DiGraph[Hashable] = nx.DiGraph()
    graph.add_nodes_from(range(30))
    graph.add_edges_from((a, b) for b in range(30) for a in range(b) if draw.random() < 0.08)
    sizes = {node: (draw.uniform(20, 200), draw.uniform(20, 90)) for node in graph}
    found = layered(graph, sizes)
    for a in graph:
        (x, y), (width, height) = found.centers[a], sizes[a]
        assert x - width / 2 >= -1e-6
        assert x + width / 2 <= found.width + 1e-6
        assert y + height / 2 <= found.height + 1e-6
        for b in range(a):
            across = abs(x - found.centers[b][0]) >= (width + sizes[b][0]) / 2 - 1e-6
            down = abs(y - found.centers[b][1]) >= (height + sizes[b][1]) / 2 - 1e-6
            assert across or down
    assert set(found.paths) == set(graph.edges)
    for path in found.paths.values():
        assert all(above[1] < below[1] for above, below in pairwise(path))


def test_the_coupling_of_heads_is_what_the_axis_says() -> None:
    model, inputs = models.tiny_bert("sdpa")
    program = graphc.capture(model, (), inputs)
    axis = next(a for a in graphc.find_axes(program) if a.name.endswith("layer.0.attention.self.heads"))
    made = axis_diagram(program, axis.name)
    told = [line for box in made.boxes.values() for line in box.more if " dim " in line]
    assert len(told) == len(axis.members)
    cut = {box.more[0] for box in made.boxes.values() if box.kind == "cut"}
    assert cut == {"self.query", "self.key", "self.value", "output.dense"}
    assert f"has {axis.size} units" in made.description


def test_a_graph_has_all_inputs_and_fits_a_file(tmp_path: Path) -> None:
    program = models.residual()
    made = graph_diagram(program)
    assert ("x",) in [box.head for box in made.boxes.values()]
    path = write_drawing(program, tmp_path / "new" / "graph.svg")
    assert [p.name for p in path.parent.iterdir()] == ["graph.svg"]
    root = ET.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    assert root.attrib["role"] == "img"
    assert len(root.findall(f".//{SVG}rect")) == len(made.boxes)
    assert len(root.findall(f".//{SVG}path[@class='arrow']")) == len(made.arrows)
    assert "prefers-color-scheme" in "".join(root.itertext())


def test_what_names_hold_is_text(tmp_path: Path) -> None:
    made = Diagram("<t>", "&\x00", {1: Box(("<script>",), ("]]>\x08",), "cut")}, [])
    text = ET.tostring(made.draw("k"), encoding="unicode")
    assert "<script>" not in text
    words = "".join(ET.fromstring(text).itertext())
    assert "<script>" in words
    assert "\x00" not in words
    assert "\x08" not in words


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = models.residual()
    with pytest.raises(GraphError, match="no axis is called") as refused:
        write_drawing(program, tmp_path / "x.svg", "conv1.ou")
    assert "conv1.out" in str(refused.value)
    with pytest.raises(GraphError, match="a drawing is an SVG file"):
        write_drawing(program, tmp_path / "x.png")
    monkeypatch.setattr(diagram, "MOST", 3)
    with pytest.raises(GraphError, match="cannot be drawn") as refused:
        write_drawing(program, tmp_path / "x.svg")
    assert "--axis" in str(refused.value)
    assert list(tmp_path.iterdir()) == []
