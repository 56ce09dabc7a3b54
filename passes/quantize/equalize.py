"""Cross-layer equalisation: units of neighbouring layers are brought to the same range."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graphc.ir.edit import rebuild
from graphc.ir.program import Program

from .bounds import bounds_as_numbers, bounds_as_tensors
from .seam import Seam
from .seams import Seams

ENOUGH = 1.01
"""A factor that changes nothing worth another round."""
ROUNDS = 100
"""The most rounds; those of a chain of layers halve what is left, so that ten are usual."""


def equalize(program: Program, clamps: bool = False) -> Program:
    """The same function, with each unit as large where weights make it as where weights take it.

    Over all seams between weights, ``s = sqrt(r1 / r2)`` by unit, ``r1`` the largest absolute weight that
    makes the unit and ``r2`` the one that takes it, until no factor is above 1.01 any more (Nagel et al.
    2019, Data-Free Quantization Through Weight Equalization and Bias Correction). Fold batch norms first.

    Args:
        program: any architecture; seams are found in its graph.
        clamps: go through relu6 and other clamps too, which then have a bound for each unit, a tensor.
            Exact, where the paper puts a plain relu; but runtimes do not fuse it into a convolution.
    """
    start = bounds_as_tensors(program) if clamps else program
    seams = [seam for seam in Seams(start).all() if _ranges(seam, start.tensors()) is not None]
    tensors = start.tensors()
    for _ in range(ROUNDS):
        largest = 1.0
        for seam in seams:
            factors = _factors(seam, tensors)
            largest = max(largest, float(factors.max()), 1 / float(factors.min()))
            tensors |= seam.apply(tensors, factors)
        if largest <= ENOUGH:
            break
    done = rebuild(start, tensors=tensors)
    return bounds_as_numbers(done, program) if clamps else done


def _factors(seam: Seam, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    ranges = _ranges(seam, tensors)
    assert ranges is not None
    made, taken = ranges
    return torch.where((made > 0) & (taken > 0), made / taken, 1).sqrt()


def _ranges(seam: Seam, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The largest absolute weights that make and that take each unit; None if no weight does."""
    made, taken = (seam.weight_maxima(ends, tensors) for ends in (seam.producers, seam.consumers))
    return None if made is None or taken is None else (made, taken)
