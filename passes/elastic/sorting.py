"""Channels in the order of their importance, so that the first ones are those worth keeping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from graphc.axes.axis import Axis, leaves
from graphc.coupling import Analysis, slice
from graphc.ir.program import Program

from ..contractions import Contraction
from ..importance.members import by_unit
from .supernet import Supernet, find_supernet


def sorted_channels(program: Program, blocks: Sequence[str] = ()) -> Program:
    """The same function, with inner channels of blocks in the order of their importance.

    Args:
        program: stays as it is.
        blocks: names or patterns of the blocks; all that have channels of their own by default.
    """
    order = importance_order(find_supernet(program, blocks))
    return slice(program, order) if order else program


def importance_order(net: Supernet) -> dict[str, list[int]]:
    """For inner channels of blocks and of squeeze branches, all units from the most important one.

    A unit is as important as the weights are large, in sum, by which the last layer reads it (Cai et al. 2020,
    Once-for-All). A network whose channels are put in this order computes what it did.

    Returns:
        Units by the name of their axis.
    """
    return {axis.name: _order(net.analysis, axis, taken) for axis, taken in _read(net)}


def _read(net: Supernet) -> Iterator[tuple[Axis, Contraction]]:
    """Axes, and the last layer that reads each."""
    inner = [i for block in net.blocks for i in block.inner]
    yield from ((i.axis, i.taken) for i in inner)
    yield from ((s.axis, s.last) for s in net.squeezes if any(s.of is i.axis for i in inner))


def _order(analysis: Analysis, axis: Axis, taken: Contraction) -> list[int]:
    layout = analysis.tensors[taken.weight]
    dim = next(i for i, part in enumerate(layout) if part is not None and axis in leaves(part))
    rows = by_unit(analysis, axis, taken.weight, dim, analysis.program.tensors()[taken.weight])
    found: list[int] = torch.argsort(rows.abs().sum((0, 2)), descending=True, stable=True).tolist()
    return found
