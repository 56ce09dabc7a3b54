"""Placement: which ops of an ONNX file onnxruntime really runs, and which of its products in integers."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto

from graphc.errors import GraphError
from graphc.measure.runnable import make_session, session_options, write_optimised

PRODUCT = re.compile("Conv|MatMul|Gemm|Attention|Einsum|LSTM|GRU|RNN")
"""In the name of every op that multiplies matrices, whoever defines it."""
INTEGER = re.compile("^Q|Integer|Quantize|NBits")
"""In the name of every one of them that has a kernel for integers."""
MOVES = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "MaxPool"})
"""Ops that hand on what was rounded before them."""
SHOWN = 4


@dataclass(frozen=True)
class Placement:
    """What onnxruntime made of a file for this CPU. Nodes are named as ``Conv node_conv2d``.

    Attributes:
        ops: how many nodes of each op it runs; ops of other domains than ONNX's have theirs in front.
        integer: the products (convolutions, matrix products, attention, recurrent cells) that run in integers.
        floating: those that run in floating point.
        unfused: roundings for nothing, as the DequantizeLinear and what reads it (``x before Add y``): its
            value comes straight from a QuantizeLinear or is constant, and is computed with in floating point.
    """

    ops: Mapping[str, int]
    integer: tuple[str, ...]
    floating: tuple[str, ...]
    unfused: tuple[str, ...]


def placement(path: str | Path) -> Placement:
    """Load a file as it would be run on this CPU, and read back what its ops became.

    Raises:
        GraphError: there is no such file, or onnxruntime cannot load it.
    """
    graph = _optimised(Path(path))
    products = [node for node in graph.node if PRODUCT.search(node.op_type)]
    return Placement(
        ops=dict(Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in graph.node)),
        integer=tuple(_title(node) for node in products if INTEGER.search(node.op_type)),
        floating=tuple(_title(node) for node in products if not INTEGER.search(node.op_type)),
        unfused=tuple(_unfused(graph)),
    )


def why_not_faster(found: Placement) -> list[str]:
    """Sentences for a report: which products stay in floating point, and where roundings were not fused."""
    reasons = []
    if found.floating:
        count = len(found.integer) + len(found.floating)
        reasons.append(f"{len(found.floating)} of {count} products stay in float: {_some(found.floating)}")
    if found.unfused:
        some = _some(found.unfused)
        reasons.append(f"{len(found.unfused)} roundings are not fused and cost time of their own: {some}")
    return reasons


def _optimised(path: Path) -> GraphProto:
    """The graph after all of onnxruntime's optimisations, without its weights."""
    if not path.is_file():
        raise GraphError("there is nothing to look at", where=str(path), why="the file does not exist")
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(0)
        written = write_optimised(options, Path(folder))
        make_session(path, options)
        return onnx.load(written, load_external_data=False).graph


def _title(node: NodeProto) -> str:
    return f"{node.op_type} {node.name}"


def _unfused(graph: GraphProto) -> Iterator[str]:
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, NodeProto] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, node)
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.output[0] not in readers:
            continue
        origin = node.input[0]
        while origin in producers and producers[origin].op_type in MOVES:
            origin = producers[origin].input[0]
        rounded = origin in producers and producers[origin].op_type == "QuantizeLinear"
        if rounded or origin in constants:
            yield f"{node.name} before {_title(readers[node.output[0]])}"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
