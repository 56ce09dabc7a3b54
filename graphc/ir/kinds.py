"""Kinds of ops: one name for what a runtime has one kernel for."""

from __future__ import annotations

from typing import Any

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
    data = node.args[0] if node.target is aten.mean.dim else None
    if not isinstance(data, Node) or data.meta["val"].dim() != 4:
        return False
    dims: Any = node.args[1]
    return isinstance(dims, (list, tuple)) and sorted(dim % 4 for dim in dims) == [2, 3]
