"""Kinds of ops: one name for what a runtime has one kernel for."""

from __future__ import annotations

import torch
from torch.fx import Node

aten = torch.ops.aten
GLOBAL_AVERAGE = "global_average"


def kind(node: Node) -> str:
    """An op's name in ATen without overload (``conv2d``), ``getitem`` for that of Python.

    A mean over both spatial dims is ``global_average``, however it is written.
    """
    if _averages_images(node):
        return GLOBAL_AVERAGE
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.partition("::")[2]
    return str(getattr(node.target, "__name__", ""))


def _averages_images(node: Node) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return node.args[1] in ([1, 1], [1], 1)
    if node.target is aten.mean.dim:
        data, dims = node.args[0], node.args[1]
        rank = data.meta["val"].dim()  # type: ignore[union-attr] # a tensor by the op's schema
        return rank == 4 and isinstance(dims, (list, tuple)) and sorted(d % 4 for d in dims) == [2, 3]  # type: ignore[operator, misc] # numbers by the op's schema
    return False
