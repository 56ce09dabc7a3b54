"""Profiles: what each op of a run takes, which module it is of, what bounds it, and what is left to win."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphc.measure.roofline import Roofline

COMPUTE, MEMORY, NOTHING = "compute", "memory", "nothing"


@dataclass(frozen=True)
class Op:
    """One op as a runtime runs it, which may be several of the model's, fused.

    Attributes:
        name: the runtime's own.
        op: what it does: ``Conv``, ``aten.linear``, ``cpp_fused_gelu``.
        modules: paths of the modules whose work it does, that of its main work first; empty if that is unknown.
        ms: milliseconds of one run.
        macs: multiply-accumulates (1 MAC = 2 FLOPs).
        weight_bytes, value_bytes: what it reads of weights, and what it reads and writes of other values.
        dtype: of the numbers that it multiplies.
    """

    name: str
    op: str
    modules: tuple[str, ...]
    ms: float
    macs: int
    weight_bytes: int
    value_bytes: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Limit:
    """What a roofline says of an op.

    Attributes:
        bound: ``compute`` or ``memory``; ``nothing`` of an op that neither multiplies nor moves.
        ideal_ms: the least that it can take.
        left_ms: what it takes above that.
    """

    bound: str
    ideal_ms: float
    left_ms: float


@dataclass(frozen=True)
class Profile:
    """A run, op by op.

    Attributes:
        run_ms: milliseconds of one run with the profiler on.
        ops: in the order in which they run.
        note: what does not hold of it as of others; empty if there is nothing.
    """

    run_ms: float
    ops: tuple[Op, ...]
    note: str = ""

    @property
    def ops_ms(self) -> float:
        """What all ops take; the rest of a run is between them."""
        return sum(op.ms for op in self.ops)

    def limits(self, roofline: Roofline) -> list[Limit]:
        """What bounds each op, and what is left to win.

        Weights pass once a run, all of them: an op finds its own in a cache only if all of the model fit there.
        Values have just been computed: they are where so many bytes fit.
        """
        weights = sum(op.weight_bytes for op in self.ops)
        return [_limit(op, weights, roofline) for op in self.ops]

    def to_dict(self, roofline: Roofline) -> dict[str, Any]:
        """As JSON has it."""
        pairs = zip(self.ops, self.limits(roofline), strict=True)
        rows = [{**vars(op), "modules": list(op.modules), **vars(limit)} for op, limit in pairs]
        return {"run_ms": self.run_ms, "ops_ms": self.ops_ms, "note": self.note, "ops": rows}


def _limit(op: Op, weights: int, roofline: Roofline) -> Limit:
    compute = roofline.compute_ms(op.macs, op.dtype)
    memory = roofline.memory_ms(op.weight_bytes, weights) + roofline.memory_ms(op.value_bytes)
    ideal = max(compute, memory)
    bound = COMPUTE if compute > memory else MEMORY if memory else NOTHING
    return Limit(bound, ideal, max(0.0, op.ms - ideal))


def typical(samples: Iterable[float]) -> float:
    """The mean of the lowest quarter: what it takes when nothing interrupts, whole microseconds evened out."""
    ordered = sorted(samples)
    return statistics.fmean(ordered[: -(-len(ordered) // 4)])
