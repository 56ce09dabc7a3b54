"""Products: which matrices a weight is, and the tensors that it becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from .bases import Basis
from .weights import Weight

Method = Literal["svd", "spatial", "tucker-2"]


def method_of(weight: Weight, method: Method) -> Method:
    """That of a weight: all but kernels with several places are plain matrices."""
    return method if weight.kernel else "svd"


def matricisations(weight: Weight, method: Method) -> list[tuple[list[int], list[int]]]:
    """For each new axis the dims of the weight that are rows and columns of the matrix that it divides."""
    rest = list(range(2, len(weight.shape)))
    rows, columns = weight.dims
    if method == "spatial":
        return [([1, 2], [0, *rest[1:]])]
    if method == "tucker-2":
        return [([1], [0, *rest]), ([0], [1, *rest])]
    return [([rows], [columns, *rest])]


def matrix(value: torch.Tensor, dims: tuple[Sequence[int], Sequence[int]]) -> torch.Tensor:
    """A weight as ``[rows, columns]``, in float32 at least."""
    rows, columns = dims
    wide = value.detach().to(torch.promote_types(value.dtype, torch.float32))
    return wide.permute(*rows, *columns).reshape(math.prod(value.shape[d] for d in rows), -1)


def most(weight: Weight, method: Method) -> list[int]:
    """The rank of each new axis at which the product is the weight."""
    sizes = [(math.prod(weight.shape[d] for d in dims) for dims in pair) for pair in matricisations(weight, method)]
    return [min(pair) for pair in sizes]


def shapes(weight: Weight, method: Method, ranks: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The sizes of each tensor of a product, in the order in which data meets them."""
    out, taken, *kernel = weight.shape
    ones = [1] * len(kernel)
    if method == "tucker-2":
        low, high = ranks
        return {"down": (low, taken, *ones), "core": (high, low, *kernel), "up": (out, high, *ones)}
    (rank,) = ranks
    if method == "spatial":
        return {"down": (rank, taken, kernel[0], *ones[1:]), "up": (out, rank, 1, *kernel[1:])}
    if kernel:
        return {"down": (rank, taken, *kernel), "up": (out, rank, *ones)}
    rows, columns = (weight.shape[d] for d in weight.dims)
    first = weight.uses[0].layer
    if first is None:
        return {"down": (columns, rank), "up": (rows, rank)}
    if first.form.rows == 1:
        return {"down": (rank, columns), "up": (rows, rank)}
    return {"down": (columns, rank), "up": (rank, rows)}


def tensors(
    weight: Weight, method: Method, value: torch.Tensor, bases: Sequence[Basis], ranks: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The tensors of a product, of the weight's type."""
    made = shapes(weight, method, ranks)
    if method == "tucker-2":
        wide = value.detach().to(torch.promote_types(value.dtype, torch.float32))
        low, high = (b.into[:, :r].to(wide.dtype) for b, r in zip(bases, ranks, strict=True))
        core = torch.einsum("oi...,or,is->rs...", wide, high, low)
        parts = {"down": low.t(), "core": core, "up": high}
    else:
        left, right = bases[0].factors(matrix(value, matricisations(weight, method)[0]), ranks[0])
        parts = {"down": right, "up": left}
        if method == "spatial":
            parts = {"down": left.t(), "up": right.reshape(ranks[0], weight.shape[0], -1).transpose(0, 1)}
        elif len(weight.shape) == 2:
            first = weight.uses[0].layer
            turned = {"down": first is None or first.form.rows == 2, "up": first is not None and first.form.rows == 2}
            parts = {"down": right.t() if turned["down"] else right, "up": left.t() if turned["up"] else left}
    return {name: part.reshape(made[name]).contiguous().to(value.dtype) for name, part in parts.items()}
