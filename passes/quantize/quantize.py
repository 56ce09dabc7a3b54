"""quantize: weights and values become integers where a target's kernels take them, or where a file gets smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir.program import Program
from graphc.ir.quantized import is_quantised
from graphc.pipeline.base import Context

from .half import halved
from .settings import Settings
from .target import HALVES
from .work import Work


@dataclass(frozen=True, kw_only=True)
class Quantize(Settings):
    """Integers in place of real numbers: in products' weights and, for 8-bit kernels, in the values they read.

    Batch norms are folded first. Weights have a symmetric scale for each output (for each block of ``group_size``
    inputs on request), values one scale each that ops which only move numbers share. The result has
    ``quantize`` and ``dequantize`` nodes, which ONNX files have as QuantizeLinear and DequantizeLinear around
    what the target's runtime fuses into integer kernels, weights stored as integers. Prune, tie and train before.

    float16 and bfloat16 are half precision everywhere but in positions, powers, roots, exponentials, sums and what is
    computed of these alone, which stay in float32 as models' authors have them; inputs and outputs stay float32.

    Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference;
    Nagel et al. 2021, A White Paper on Neural Network Quantization.
    """

    type: ClassVar[str] = "quantize"

    def reduces(self) -> tuple[str, ...]:
        """All but products: batch norms are folded, and numbers are shorter."""
        return ("params", "bytes")

    def run(self, program: Program, context: Context) -> Program:
        """Prepare, choose, calibrate, round, guard."""
        work = Work(self, context, program)
        after = halved(work) if self.scheme in HALVES else work.run().converted()
        context.record(self.title, work.told())
        return after

    def ensures(self, before: Program, after: Program) -> None:
        """Something became integers, or half precision."""
        assert is_quantised(after) or any(v.dtype in HALVES.values() for v in after.tensors().values())
