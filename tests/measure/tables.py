"""A processor that is made up: deterministic times, in steps of 16 channels, and two layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from graphc.measure.isolated import Job, Timing

STEP = 16
CHANGE = 0.05
"""Milliseconds to change a layout."""


def made_up(sizes: Sequence[int]) -> float:
    """Milliseconds of a block whose axes have these sizes."""
    return 0.01 + 1e-5 * math.prod(-(-size // STEP) * STEP for size in sizes)


def measure(jobs: Sequence[Job], lot: int = 3) -> Iterator[list[tuple[Job, Timing]]]:
    """Convolutions take and give channels in blocks; nothing else does."""
    for start in range(0, len(jobs), lot):
        yield [(job, timing(job)) for job in jobs[start : start + lot]]


def timing(job: Job) -> Timing:
    """Of one block."""
    convolution = job.block.family.startswith("conv")
    image = [isinstance(n.meta["val"], torch.Tensor) and n.meta["val"].dim() == 4 for n in job.block.inputs]
    wants = [convolution and is_image for is_image in image]
    reads = tuple(CHANGE if want != has else 0.0 for want, has in zip(wants, job.layouts, strict=True))
    return Timing(made_up(job.block.sizes()), 1, reads, tuple(convolution for _ in job.block.outputs))
