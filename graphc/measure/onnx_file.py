"""An .onnx file that somebody else may have written: seen to be what it says before onnxruntime reads it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from graphc.errors import GraphError

BITS = {"FLOAT4E2M1": 4, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2, "STRING": 0}
"""Bits of an entry, of types that have no type in numpy or none of a size."""
LARGEST = 2**31
"""Bytes that one constant op may make: protobuf, which holds all other constants, has the same limit."""


def check_onnx(path: Path) -> None:
    """See that a file's graph goes forward, that its tensors have the memory that they say, and that none is elsewhere.

    Raises:
        GraphError: something is not so, or the file is no ONNX.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise GraphError("this is no ONNX file", where=str(path), why=type(error).__name__) from error
    for graph, outside in _graphs(model.graph, frozenset()):
        _check_order(graph, outside, path)
        for tensor in _tensors(graph):
            _check_tensor(tensor, path)
        _check_made(graph, path)
    if model.functions:
        _check_calls(model, path)


def _refused(path: Path, why: str) -> GraphError:
    hint = "do not use the file if you do not know where it comes from"
    return GraphError("the file is refused", where=str(path), why=why, hint=hint)


def _graphs(graph: onnx.GraphProto, outside: frozenset[str]) -> Iterator[tuple[onnx.GraphProto, frozenset[str]]]:
    """A graph and those in its nodes, with the names that they may use of the graphs around them.

    How deep they may be is limited by protobuf, which has read them.
    """
    yield graph, outside
    names = outside | {v.name for v in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner, frozenset(names))


def _check_order(graph: onnx.GraphProto, outside: frozenset[str], path: Path) -> None:
    """Every value is computed before it is used: so nothing goes in a circle."""
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    known = set(outside) | {v.name for v in (*graph.input, *graph.initializer)} | sparse | {""}
    for node in graph.node:
        missing = [name for name in node.input if name not in known]
        if missing:
            raise _refused(path, f"the node {node.name!r} uses {missing[0]!r} before it is computed, or in a circle")
        known.update(node.output)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """The memory is there, and as large as the shape says."""
    what = f"the tensor {tensor.name!r} of shape {list(tensor.dims)}"
    if any(dim < 0 for dim in tensor.dims):
        raise _refused(path, f"{what} has a negative size")
    count = prod(tensor.dims)
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    bits = BITS[kind] if kind in BITS else onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    size = (count * bits + 7) // 8
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, what, size, path)
        return
    fields = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
    stored = max(len(tensor.raw_data), *(len(getattr(tensor, field)) * 8 * 2 for field in fields))
    if size > stored or (kind == "STRING" and count > len(tensor.string_data)):
        raise _refused(path, f"{what} has only {stored} bytes in the file")


def _check_external(tensor: onnx.TensorProto, what: str, size: int, path: Path) -> None:
    """Memory in a file beside the model, in its folder, and all of it there."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    file = path.parent / location
    inside = file.resolve().is_relative_to(path.parent.resolve())
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or not inside or not file.is_file():
        raise _refused(path, f"{what} is said to be in {location!r}, which is no file in the folder of the model")
    try:
        offset, length = int(facts.get("offset", 0)), int(facts.get("length", size))
    except ValueError as error:
        raise _refused(path, f"{what} has a place that is no number") from error
    if offset < 0 or length < size or offset + length > file.stat().st_size:
        raise _refused(path, f"{what} does not fit into {location!r}, which has {file.stat().st_size} bytes")


def _check_made(graph: onnx.GraphProto, path: Path) -> None:
    """Constants that an op makes of a shape alone, which onnxruntime computes as it loads."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    known |= {
        node.output[0]: attribute.t
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.name == "value"
    }
    for node in graph.node:
        shape = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(node.op_type)
        if shape is None or len(node.input) <= shape or node.input[shape] not in known:
            continue
        given = known[node.input[shape]]
        if (
            given.data_location != onnx.TensorProto.EXTERNAL
            and prod(map(int, onnx.numpy_helper.to_array(given))) > LARGEST
        ):
            raise _refused(path, f"the node {node.name!r} makes a constant of more than {LARGEST:,} entries")


def _check_calls(model: onnx.ModelProto, path: Path) -> None:
    """No function of the file calls itself."""
    calls = {(f.domain, f.name): {(node.domain, node.op_type) for node in f.node} for f in model.functions}
    done: set[tuple[str, str]] = set()
    while ready := [name for name, called in calls.items() if name not in done and not (called & set(calls)) - done]:
        done.update(ready)
    if len(done) < len(calls):
        raise _refused(path, "its functions call each other in a circle")
