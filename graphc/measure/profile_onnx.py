"""Profiles of onnxruntime on a processor: its own profiler's times, by op, with the modules that they are of."""

from __future__ import annotations

import bisect
import json
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, NodeProto

from graphc.measure.onnx_file import check_onnx
from graphc.measure.onnx_origins import modules_of, origins, walk_nodes
from graphc.measure.onnx_work import bytes_of, dtype_of, macs_of
from graphc.measure.profile import Op, Profile, typical
from graphc.measure.runnable import (
    Inputs,
    made_inputs,
    make_session,
    named_inputs,
    session_options,
    split_inputs,
    write_optimised,
)

SUFFIX = "_kernel_time"
Event = Mapping[str, Any]
Shapes = Mapping[str, list[int]]


def profile_onnx(
    path: Path, inputs: Inputs, dims: Mapping[str, int], threads: int, warmup: int, repeat: int, seed: int = 0
) -> Profile:
    """Run a file under onnxruntime's profiler.

    Args:
        path: of the ``.onnx`` file.
        inputs, dims, seed: as for ``benchmark``.
        threads: within one op.
        warmup, repeat: runs that do not count, and runs that do.

    Raises:
        GraphError: onnxruntime cannot run the file, or inputs are missing.
    """
    check_onnx(path)
    original = onnx.load(str(path), load_external_data=False).graph
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        optimised = write_optimised(options, Path(folder))
        session = make_session(path, options)
        if inputs is None:
            feed = made_inputs(session.get_inputs(), dims, seed)
        else:
            feed = named_inputs(session, *split_inputs(inputs))
        for _ in range(warmup + repeat):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(str(optimised), load_external_data=False).graph
    shapes = {name: list(value.shape) for name, value in feed.items()}
    return _profile(original, graph, shapes, events, warmup)


def _profile(original: GraphProto, graph: GraphProto, shapes: Shapes, events: Sequence[Event], warmup: int) -> Profile:
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: float(e["ts"]))
    begins = [float(run["ts"]) for run in runs]
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    seen: dict[str, Event] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            name = event["name"].removesuffix(SUFFIX)
            spent[name][bisect.bisect(begins, float(event["ts"])) - 1] += event["dur"] / 1000
            seen.setdefault(name, event)
    reader = _Reader(original, graph, shapes, seen)
    ops = [reader.op(name, event["args"], typical(spent[name][warmup:])) for name, event in seen.items()]
    return Profile(typical([run["dur"] / 1000 for run in runs[warmup:]]), tuple(ops))


class _Reader:
    """Reads ops from what the profiler tells, and from the graphs before and after onnxruntime's optimisations."""

    def __init__(self, original: GraphProto, graph: GraphProto, shapes: Shapes, seen: Mapping[str, Event]) -> None:
        self.nodes = {node.name: node for node in walk_nodes(graph)}
        self.origins = origins(original, graph)
        readers = Counter(name for node in walk_nodes(original) for name in node.input)
        self.parameters = {tensor.name: tensor for tensor in original.initializer if readers[tensor.name] == 1}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.shapes = {**shapes, **{name: list(tensor.dims) for name, tensor in self.weights.items()}}
        for name, event in seen.items():
            given = [output for output in self.nodes[name].output if output] if name in self.nodes else []
            self.shapes.update(zip(given, _shapes(event["args"]["output_type_shape"]), strict=False))

    def op(self, name: str, facts: Mapping[str, Any], ms: float) -> Op:
        """One op."""
        kind, node, made = str(facts["op_name"]), self.nodes.get(name), self.origins.get(name, ())
        first = next((word for entry in facts["input_type_shape"] for word in entry), "float")
        weights = (
            sum(map(_bytes, {i: self.weights[i] for i in node.input if i in self.weights}.values())) if node else 0
        )
        values = (int(facts.get(key) or 0) for key in ("activation_size", "output_size"))
        modules = modules_of(made, self.parameters)
        macs = self.macs(kind, node, made, facts)
        return Op(name, kind, modules, ms, macs, *bytes_of(kind, weights, *values), dtype_of(kind, first))

    def macs(self, kind: str, node: NodeProto | None, made: Sequence[NodeProto], facts: Mapping[str, Any]) -> int:
        """Its work, without that of channels that onnxruntime adds to fill a block."""
        if node is None:
            return 0
        told = _shapes(facts["input_type_shape"])
        inputs = [self.shapes.get(name, told[i] if i < len(told) else []) for i, name in enumerate(node.input)]
        if made and made[0].op_type == kind == "Conv" and made[0].input[1] in self.parameters:
            inputs[1] = list(self.parameters[made[0].input[1]].dims)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return macs_of(kind, inputs, _shapes(facts["output_type_shape"]), attributes)


def _shapes(told: Sequence[Mapping[str, list[int]]]) -> list[list[int]]:
    return [shape for entry in told for shape in entry.values()]


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
