"""The work of an ONNX op: how many multiply-accumulates, and how many bytes, at the shapes of one run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

Shapes = Sequence[Sequence[int]]
Attributes = Mapping[str, Any]
Macs = Callable[[Shapes, Shapes, Attributes], int]

INTEGERS = re.compile("^Q|Integer|DynamicQuantize")
"""In the names of ops that multiply integers."""
STILL = frozenset("Reshape Squeeze Unsqueeze Flatten Identity Shape Size Constant".split())
"""Ops that move nothing: what they give is where it was."""
PICKS = frozenset("Gather GatherElements GatherND GatherBlockQuantized Slice Split".split())
"""Ops that read only what they give."""


def macs_of(op: str, inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    """Multiply-accumulates of convolutions, matrix products, attention and recurrent cells; 0 of all others."""
    return MACS[op](inputs, outputs, attributes) if op in MACS else 0


def bytes_of(op: str, weights: int, read: int, written: int) -> tuple[int, int]:
    """Bytes of weights that an op reads, and of values that it reads and writes; given those of all that it names."""
    if op in STILL:
        return 0, 0
    return (0, 2 * written) if op in PICKS else (weights, read + written)


def dtype_of(op: str, first: str) -> str:
    """The type of the numbers that an op multiplies, given onnxruntime's word for that of its first input."""
    words = {"float": "float32", "double": "float64"}
    return "int8" if INTEGERS.search(op) else words.get(first, first)


def _conv(weight: int) -> Macs:
    """Of outputs ``[batch, channels, ...]``, of whose channels a weight says how many there are."""
    return lambda inputs, outputs, _: prod(outputs[0]) // outputs[0][1] * prod(inputs[weight])


def _conv_transpose(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    return prod(inputs[0]) * prod(inputs[1][1:])


def _matmul(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    inner = inputs[0][-2 if attributes.get("transA") and len(inputs[0]) > 1 else -1]
    return prod(outputs[0]) * inner


def _few_bits(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    return prod(outputs[0]) * int(attributes["K"])


def _packed_attention(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    """Projections by one weight ``[width, 3 hidden]``, and the attention itself."""
    batch, tokens, width = inputs[0]
    total = inputs[1][-1]
    return batch * tokens * width * total + 2 * batch * tokens * tokens * total // 3


def _attention(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    """Of queries, keys and values apart: ``[batch, tokens, hidden]`` or ``[batch, heads, tokens, width]``."""
    query, result = inputs[0], outputs[0]
    if len(query) == 5:  # queries, keys and values in one
        return 2 * query[0] * query[1] ** 2 * query[2] * query[4]
    keys = inputs[1][-2] if len(inputs) > 1 and len(inputs[1]) > 2 else query[-2]
    return (prod(query) + prod(result)) * keys


def _recurrent(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    steps, batch = inputs[0][:2]
    return steps * batch * (prod(inputs[1]) + prod(inputs[2]))


def _einsum(inputs: Shapes, outputs: Shapes, attributes: Attributes) -> int:
    equation = attributes["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    if "..." in text or len(inputs) < 2:
        return 0 if len(inputs) < 2 else prod(outputs[0]) * inputs[0][-1]
    terms = text.partition("->")[0].split(",")
    sizes = {letter: size for term, shape in zip(terms, inputs, strict=True) for letter, size in zip(term, shape)}
    return prod(sizes.values())


MACS: dict[str, Macs] = {
    **dict.fromkeys("Conv FusedConv NhwcConv NhwcFusedConv ConvInteger".split(), _conv(1)),
    **dict.fromkeys("QLinearConv".split(), _conv(3)),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys("MatMul Gemm FusedMatMul FusedGemm FusedMatMulActivation MatMulInteger".split(), _matmul),
    **dict.fromkeys("QLinearMatMul QGemm DynamicQuantizeMatMul MatMulIntegerToFloat".split(), _matmul),
    "MatMulNBits": _few_bits,
    **dict.fromkeys(
        "Attention QAttention".split(), lambda i, o, a: (_packed_attention if _packs(i) else _attention)(i, o, a)
    ),
    **dict.fromkeys("MultiHeadAttention GroupQueryAttention".split(), _attention),
    **dict.fromkeys("LSTM GRU RNN DynamicQuantizeLSTM".split(), _recurrent),
    "Einsum": _einsum,
}


def _packs(inputs: Shapes) -> bool:
    """Is the second input of an Attention a weight, as in onnxruntime's own op?"""
    return len(inputs[0]) == 3 and len(inputs[1]) == 2
