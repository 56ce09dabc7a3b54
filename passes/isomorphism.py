"""Isomorphism: which axes play the same part in a network.

Fang et al. 2024, Isomorphic Pruning for Vision Models: scores are only comparable between
sub-structures of the same form. The form of an axis is what its members are: for each tensor that
has it the op that reads the tensor, the argument that it is, the dim, and the size of the kernel.
How often each stands there does not count, so the stages of a network are alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Literal

from torch.fx import Node

from graphc.axes.axis import Axis
from graphc.coupling import Analysis
from graphc.ir.graph import attribute

Mode = Literal["local", "global", "isomorphic"]


def grouped(analysis: Analysis, axes: Sequence[Axis], mode: Mode) -> dict[Axis, Hashable]:
    """What each axis is ranked with: itself, all others, or those of its form."""
    if mode == "local":
        return {axis: axis.name for axis in axes}
    if mode == "global":
        return dict.fromkeys(axes, "all")
    readers = {str(node.target): node for node in analysis.program.graph.nodes if node.op == "get_attr"}
    return {axis: frozenset(_form(analysis, axis, readers)) for axis in axes}


def _form(analysis: Analysis, axis: Axis, readers: Mapping[str, Node]) -> Iterator[Hashable]:
    yield axis.roles
    for name, dim in axis.members:
        kernel = tuple(attribute(analysis.program.module, name).shape[2:])
        for user in readers[name].users:
            position = next((i for i, argument in enumerate(user.args) if argument is readers[name]), -1)
            yield str(user.target), position, dim, kernel
