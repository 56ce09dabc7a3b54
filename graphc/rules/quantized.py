"""Quantised numbers: what has become integers stays whole, as its scales were found for all of it."""

from __future__ import annotations

from graphc.ir.quantized import DEQUANTIZE, DYNAMIC, FAKE, QUANTIZE, UNPACK
from graphc.rules.operation import Operation, Value
from graphc.rules.table import rule


def _pinned(op: Operation) -> Value:
    """The same dims, none of which can be cut any more."""
    for axis in (axis for layout in op.inputs() for axis in layout):
        if axis is not None:
            axis.pin(f"quantised at {op.where()}; cut before quantising")
    return op.tensor(0)


def _unpacked(op: Operation) -> Value:
    *before, _ = _pinned(op)
    return (*before, op.fresh(op.shape()[-1], "four-bit numbers"))


rule([FAKE, QUANTIZE, DEQUANTIZE], _pinned)
rule(DYNAMIC, lambda op: (_pinned(op), (), ()))
rule(UNPACK, _unpacked)
