"""The test of tests: a sliced program computes what the masked one computes, and the cut is felt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.utils import _pytree as pytree

import graphc
from graphc.axes.axis import Axis
from graphc.coupling.cost import budget
from graphc.coupling.flow import analyze
from graphc.ir.verify import verify

TOLERANCE = 1e-5


def half(axes: Sequence[Axis], seed: int = 0) -> dict[str, list[int]]:
    """A random half of the units of each axis."""
    generator = torch.Generator().manual_seed(seed)
    return {
        axis.name: sorted(torch.randperm(axis.size, generator=generator)[: max(1, axis.size // 2)].tolist())
        for axis in axes
    }


def exact(program: graphc.Program) -> list[Axis]:
    """Free axes on which masking and slicing are the same."""
    return [axis for axis in graphc.find_axes(program) if axis.pinned is None and not axis.mixed]


def distance(a: object, b: object) -> float:
    """Relative error over all tensors of two outputs."""
    first, second = (
        torch.cat([v.flatten().double() for v in pytree.tree_leaves(x) if isinstance(v, torch.Tensor)]) for x in (a, b)
    )
    return float((first - second).norm() / first.norm())


def prove(program: graphc.Program, kept: Mapping[str, Sequence[int]], felt: bool = True, **dims: int) -> graphc.Program:
    """Slice, check against the mask at the example's and other sizes, and against the polynomial."""
    sliced, masked = graphc.slice(program, kept), graphc.mask(program, kept)
    verify(sliced)
    for sizes in ({}, dims):
        args, kwargs = program.contract.resized(**sizes)
        with torch.no_grad():
            whole, cut, zeroed = (p(*args, **kwargs) for p in (program, sliced, masked))
        assert distance(zeroed, cut) <= TOLERANCE, kept
        assert not felt or distance(whole, cut) > 1e-3, f"the cut of {kept} is not felt"
    analysis = analyze(program)
    sizes_by_axis = {axis: len(kept[axis.name]) for axis in analysis.axes if axis.name in kept}
    assert budget(analyze(sliced)) == budget(analysis, sizes_by_axis)
    return sliced
