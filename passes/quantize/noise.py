"""Noise: how far the outputs of a program are from those of another, in decibels."""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from graphc.ir.program import Program
from graphc.measure.fidelity import named_tensors

from ..calibration import Calibration


def output_sqnr(reference: Program, program: Program, calibration: Calibration, what: str) -> float:
    """The signal-to-quantisation-noise ratio in dB, of the output where it is least.

    ``10 log10(sum x^2 / sum (x - y)^2)`` over all batches; nothing is kept from one to the next.

    Args:
        reference, program: of one contract.
        calibration: the data.
        what: what it is done for, for progress and errors.
    """
    signal: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    with torch.no_grad():
        for batch in calibration.batches(reference, what):
            pairs = (named_tensors(p(*batch.args, **batch.kwargs)) for p in (reference, program))
            for (name, x), (_, y) in zip(*pairs, strict=True):
                if x.is_floating_point():
                    signal[name] += float(x.double().square().sum())
                    noise[name] += float((x.double() - y.double()).square().sum())
    return min((decibels(signal[name], noise[name]) for name in signal), default=math.inf)


def decibels(signal: float, noise: float) -> float:
    """A ratio of sums of squares in dB; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
