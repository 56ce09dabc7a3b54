"""Layers as matrices: a weight as what multiplies columns, and what of the data these columns are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .affine import Affine


def matrix(layer: Affine, parameter: torch.Tensor) -> torch.Tensor:
    """A layer's parameter, or what has a number for each entry of it, as ``[groups, rows, columns]``."""
    return layer.by_row(parameter.permute(layer.order)).flatten(2)


def parameter(layer: Affine, rows: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """What ``matrix`` gives as a parameter of this shape again."""
    found = _operand(layer, rows, [shape[i] for i in layer.order])
    return found.permute([layer.order.index(i) for i in range(found.dim())])


def _operand(layer: Affine, rows: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """As a weight that the op reads, of this shape but for the number of rows."""
    groups, count = rows.shape[:2]
    if layer.form.rows == 1:
        return rows.reshape(groups * count, *shape[1:])
    return rows.reshape(groups, count, shape[0] // groups, *shape[2:]).transpose(1, 2).flatten(0, 1)


def columns(layer: Affine, data: torch.Tensor, shape: Sequence[int]) -> Iterator[torch.Tensor]:
    """What a layer's matrix multiplies, ``[groups, columns, places]``, image by image.

    Of a linear layer these are its inputs. A convolution gives its columns itself, with a weight whose every
    row is one at one entry: whatever its strides, padding and dilation are.

    Args:
        layer: what reads the data.
        data: its value.
        shape: of the weight as the op reads it.
    """
    if layer.form.groups is None:
        yield data.reshape(-1, data.shape[-1]).t().unsqueeze(0)
        return
    count = shape[layer.form.columns - 1] * data.new_empty(shape[2:]).numel()
    count = count // layer.groups if layer.form.rows == 2 else count
    units = torch.eye(count, dtype=data.dtype, device=data.device).expand(layer.groups, -1, -1)
    weight, more = _operand(layer, units, shape), layer.node.args[layer.form.weight + 2 :]
    for image in torch.split(data, 1) if layer.dim == 1 else (data,):
        found = layer.node.target(image, weight, None, *more)  # type: ignore[operator] # an op
        yield found.movedim(layer.dim, 0).flatten(1).unflatten(0, (layer.groups, -1))
