"""Names of axes: where they are born, and what they are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.axes.axis import Axis, leaves
from graphc.ir.graph import module_path
from graphc.rules.operation import Birth

STRONG = ("heads", "head_dim", "repeat")
"""Roles that name an axis wherever it was born first."""

LAYERS = ("width", "filters", "groups")
"""Roles that a layer gives to the axes it makes."""


def name_axes(axes: Sequence[Axis], births: Iterable[Birth]) -> None:
    """Give every axis a unique name: ``layer1.0.conv1.out``, ``encoder.layer.0.attention.heads``.

    A head axis is named after the attention that splits it; other axes after the first layer that
    makes them; what no layer makes after its first parameter and dim (``cls_token.2``).
    """
    wanted = set(axes)
    taken: set[str] = set()
    told: set[tuple[Axis, str]] = set()
    ordered = list(births)
    for strong in (True, False):
        for birth in ordered:
            if (birth.role in STRONG) is not strong:
                continue
            name = _join(module_path(birth.node), birth.role if strong else "out")
            for axis in leaves(birth.axis):
                if axis not in wanted or axis.roles.isdisjoint(LAYERS):
                    continue
                if (axis, name) not in told:
                    told.add((axis, name))
                    axis.aliases.append(name)
                if not axis.name:
                    axis.name = _unique(name, taken)
    for axis in axes:
        if not axis.name:
            parameter, dim = axis.members[0]
            axis.name = _unique(f"{parameter}.{dim}", taken)


def _join(path: str, suffix: str) -> str:
    return f"{path}.{suffix}" if path else suffix


def _unique(name: str, taken: set[str]) -> str:
    result, count = name, 1
    while result in taken:
        count += 1
        result = f"{name}_{count}"
    taken.add(result)
    return result
