"""ONNX files as onnxruntime runs them fastest on a CPU, on request: ``optimize: onnxruntime``.

Measured with onnxruntime 1.32, one thread: ``Attention`` of opset 23 over ``[batch, sequence, width]`` is faster than
what torch.onnx writes for attention and than MultiHeadAttention of com.microsoft (which gives NaN where a mask hides
everything); ``SkipLayerNormalization``, which onnxruntime makes of Add and LayerNormalization by itself, takes six
times as long as the two, so that sums before norms are written as ``Sum``. GELUs are fused when a file is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx_ir
import torch
from onnx_ir.passes.common import ShapeInferencePass
from onnxscript import opset23
from torch.fx import Graph, Node
from torch.nn.functional import scaled_dot_product_attention

from graphc.emitters.moves import BEFORE, Dims, Moved, follow, same, straight, unmoved
from graphc.errors import EmitError, nearest
from graphc.ir.edit import rebuild
from graphc.ir.program import Program
from graphc.ir.quantized import LIBRARY

aten = torch.ops.aten
op: Any = opset23
RUNTIMES = ("onnxruntime",)
OPSET = 23
"""The first operator set with attention, RMS norms and rotary embeddings."""
FUSED = {
    "Attention": "attention",
    "Gelu": "gelu",
    "LayerNormalization": "layer_norm",
    "RMSNormalization": "rms_norm",
    "RotaryEmbedding": "rotary_embedding",
}
"""What is counted, by the op in the file."""
SUM = "sum_before_norm"
SCHEMA = "(Tensor query, Tensor key, Tensor value, Tensor? mask, int heads, int key_heads, float? scale, bool causal)"
LEAST = torch.finfo(torch.float32).min
LOW = 0.9 * LEAST
"""As good a mask as the least number, by which onnxruntime knows what is hidden by a mask of booleans."""


def _attention(
    query: Any, key: Any, value: Any, mask: Any, heads: int, key_heads: int, scale: float | None, causal: bool
) -> Any:
    """Attention of ``[batch, sequence, heads * width]``; keys and values may have fewer heads."""
    query, key, value = (
        tensor.unflatten(2, (count, -1)).transpose(1, 2)
        for tensor, count in ((query, heads), (key, key_heads), (value, key_heads))
    )
    shared = heads != key_heads
    result = scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=shared)
    return result.transpose(1, 2).flatten(2)


LIBRARY.define(f"attention{SCHEMA} -> Tensor")
LIBRARY.impl("attention", _attention, "CompositeExplicitAutograd")
torch.library.register_fake("graphc::attention", _attention, lib=LIBRARY)
ATTENTION = torch.ops.graphc.attention.default


def _in_onnx(
    query: Any, key: Any, value: Any, mask: Any, heads: int, key_heads: int, scale: float | None, causal: bool
) -> Any:
    result, *_ = op.Attention(
        query, key, value, mask, q_num_heads=heads, kv_num_heads=key_heads, is_causal=int(causal), scale=scale
    )
    return result


TRANSLATIONS: dict[str, Callable[..., Any]] = {str(ATTENTION): _in_onnx}


def check(runtime: str, opset_version: int | None) -> None:
    """See that there are fusions for a runtime, in the operator set that was asked for.

    Raises:
        EmitError: there are none; names the nearest runtime.
    """
    if runtime not in RUNTIMES:
        raise EmitError(f"there are no fusions for {runtime!r}", where="optimize", hint=nearest(str(runtime), RUNTIMES))
    if opset_version is not None and opset_version < OPSET:
        why = f"attention is one op since opset_version {OPSET}"
        hint = f"give {OPSET} or a higher one, or nothing"
        raise EmitError(f"opset_version {opset_version} has no fused ops", where="optimize", why=why, hint=hint)


def restate(program: Program) -> Program:
    """The same program with attention over joined heads where it can be, and without moves that cancel."""
    joined = _no_more_work(program, rebuild(program, _join_heads))
    return _no_more_work(joined, rebuild(joined, _straighten))


def _no_more_work(before: Program, after: Program) -> Program:
    """An op that was put before moves is there twice if something else reads it behind them."""
    counts = [sum(node.target in BEFORE for node in program.graph.nodes) for program in (before, after)]
    return after if counts[1] <= counts[0] else before


def _join_heads(graph: Graph) -> None:
    """Attention of ``[batch, sequence, heads * width]`` in place of what has the heads split off and moved."""
    found, made, masks = follow(graph), dict[Node, Node](), dict[Any, Node]()
    for node in list(graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        given = _arguments(node)
        with graph.inserting_before(node):
            if isinstance(given["attn_mask"], Node):
                given["attn_mask"] = _mask(graph, given, masks)
            new = _joined(graph, given, found, made)
            if new is None:  # keys of one head for all queries are groups to ONNX
                given["enable_gqa"] = given["enable_gqa"] or _heads(given["query"]) != _heads(given["key"])
                named = {name: given.pop(name) for name in ("scale", "enable_gqa")}
                new = graph.call_function(node.target, tuple(given.values()), named)
        node.replace_all_uses_with(new)


def _heads(tensor: Node) -> Any:
    """How many heads there are; None where there is no dim of heads."""
    shape = tensor.meta["val"].shape
    return shape[1] if len(shape) == 4 else None


def _arguments(node: Node) -> dict[str, Any]:
    """All arguments of an op by name."""
    schema = node.target._schema  # type: ignore[union-attr] # an op of ATen
    named = zip((argument.name for argument in schema.arguments), node.args, strict=False)
    return {**{argument.name: argument.default_value for argument in schema.arguments}, **dict(named), **node.kwargs}


def _joined(graph: Graph, given: dict[str, Any], found: dict[Node, Moved], made: dict[Node, Node]) -> Node | None:
    tensors = [given[name] for name in ("query", "key", "value")]
    heads = [_heads(tensor) for tensor in tensors[:2]]
    if given["dropout_p"] or not all(isinstance(count, int) for count in heads):
        return None
    moved = [found.get(tensor) or unmoved(tensor) for tensor in tensors]
    flat = [straight(graph, each, _flat(each.dims), made) for each in moved]
    if None in flat:
        return None
    result = graph.call_function(ATTENTION, (*flat, given["attn_mask"], *heads, given["scale"], given["is_causal"]))
    split = graph.call_function(aten.unflatten.int, (result, 2, [heads[0], tensors[2].meta["val"].shape[3]]))
    return graph.call_function(aten.transpose.int, (split, 1, 2))


def _flat(dims: Dims) -> Dims:
    """``[batch, heads, sequence, width]`` as ``[batch, sequence, heads * width]``."""
    return dims[0], dims[2], dims[1] + dims[3]


def _mask(graph: Graph, given: dict[str, Any], made: dict[Any, Node]) -> Node:
    """A mask as onnxruntime takes it: over all queries and keys, and the least number is no sign for "hidden"."""
    mask: Node = given["attn_mask"]
    wanted = [given[name].meta["val"].shape[-2] for name in ("query", "key")]
    key = (mask, *map(str, wanted))
    if key in made:
        return made[key]
    value, new = mask.meta["val"], mask
    if value.dtype == torch.float32:
        new = graph.call_function(
            aten.masked_fill.Scalar, (new, graph.call_function(aten.eq.Scalar, (new, LEAST)), LOW)
        )
    if value.dim() < 2 or not all(map(same, value.shape[-2:], wanted)):
        sizes = [_length(graph, given[name]) for name in ("query", "key")]
        new = graph.call_function(aten.expand.default, (new, [*[-1] * (value.dim() - 2), *sizes]))
    made[key] = new
    return new


def _length(graph: Graph, tensor: Node) -> Any:
    """The size of the dim before the last."""
    shape = tensor.meta["val"].shape
    size = shape[-2]
    return size if isinstance(size, int) else graph.call_function(aten.sym_size.int, (tensor, len(shape) - 2))


def _straighten(graph: Graph) -> None:
    """Take away moves that cancel."""
    found, made = follow(graph), dict[Node, Node]()
    for node in list(graph.nodes):
        if node in found and any(user not in found for user in node.users):
            with graph.inserting_before(node):
                new = straight(graph, found[node], found[node].dims, made)
            if new is not None:
                node.replace_all_uses_with(new)


def finish(model: onnx_ir.Model) -> dict[str, int]:
    """Write sums before norms as they run best; how many ops of each kind are fused, by name."""
    sums = {node.inputs[0] for node in model.graph if node.op_type == "LayerNormalization"}
    apart = [node for node in model.graph if node.op_type == "Add" and _may_stand_apart(node, sums)]
    for node in apart:
        node.op_type = "Sum"
    kinds = Counter(FUSED[node.op_type] for node in model.graph if node.op_type in FUSED)
    return {**kinds, **({SUM: len(apart)} if apart else {})}


def _may_stand_apart(node: onnx_ir.Node, sums: set[onnx_ir.Value | None]) -> bool:
    (result,) = node.outputs
    return result in sums and all(user.op_type != "QuantizeLinear" for user in result.consumers())


def repeat_angles(model: onnx_ir.Model) -> None:
    """Give rotary embeddings angles for each sample: of one for all, torch.onnx makes files that do not run."""
    found = [node for node in model.graph if node.op_type == "RotaryEmbedding" and len(node.inputs) == 3]
    if found:
        ShapeInferencePass()(model)
    for node in found:
        data, *angles = node.inputs
        if all(angle is not None and angle.shape is not None and angle.shape[0] == 1 for angle in angles):
            tape = onnx_ir.tape.Tape()
            batch = tape.op("Shape", [data], {"start": 0, "end": 1})
            ones = tape.initializer(onnx_ir.tensor([1, 1], name=f"{node.name}_ones"))
            shape = tape.op("Concat", [batch, ones], {"axis": 0})
            for position, angle in enumerate(angles, 1):
                node.replace_input_with(position, tape.op("Expand", [angle, shape]))
            model.graph.insert_before(node, tape.nodes)
            for value in tape.initializers:
                model.graph.register_initializer(value)
