"""Cover: a latency table learns of other sizes of a program's axes, to interpolate between them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Collection

import torch

from graphc.axes.axis import Axis
from graphc.coupling.flow import analyze
from graphc.coupling.slicing import slice
from graphc.ir.graph import assemble, copy_graph
from graphc.ir.program import Program
from graphc.measure.blocks import Blocks

SMALLEST = 8
"""No axis is measured at less than this part of its size."""
WHOLE = 0.2
"""How often an axis keeps its size."""


def grid(size: int) -> int:
    """Of what the sizes that are measured and chosen are multiples: kernels compute 4, 8 or 16 channels at once."""
    return 8 if size >= 32 else 4 if size >= 16 else 1


def sized_at_random(
    program: Program, names: Collection[str] | None, count: int, take_apart: Callable[[Program], Blocks], seed: int = 0
) -> list[Blocks]:
    """A program taken apart at so many random sizes of its free axes, without its values.

    Args:
        program: any Program.
        names: of the axes that vary; all free ones if None.
        count: how many.
        take_apart: how programs become blocks.
        seed: of the sizes.
    """
    generator = random.Random(seed)
    analysis = analyze(program)
    needs = {need.axis.root(): need for need in analysis.needs}
    free = [a for a in analysis.axes if a.pinned is None and (names is None or a.name in names)]
    found = []
    for _ in range(count):
        kept = {}
        for axis in free:
            need = needs.get(axis)
            multiple = math.lcm(grid(axis.size), need.multiple if need else 1)
            size = _size(axis, multiple, need.least if need else 1, generator)
            kept[axis.name] = list(range(size))
        found.append(take_apart(_without_values(slice(program, kept))))
    return found


def _size(axis: Axis, multiple: int, least: int, generator: random.Random) -> int:
    if generator.random() < WHOLE:
        return axis.size
    lowest = max(1, least, axis.size // SMALLEST)
    return min(axis.size, math.ceil(generator.uniform(lowest, axis.size) / multiple) * multiple)


def _without_values(program: Program) -> Program:
    """The program with tensors that take no memory."""
    tensors: dict[str, torch.Tensor] = {}
    for name, value in program.tensors().items():
        empty = value.detach().to("meta")
        tensors[name] = torch.nn.Parameter(empty, False) if isinstance(value, torch.nn.Parameter) else empty
    return dataclasses.replace(program, module=assemble(copy_graph(program.graph), tensors))
