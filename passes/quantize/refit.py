"""Refit: the scales that a weight's integers would rather have, with respect to what the weight multiplies."""

from __future__ import annotations

import torch

AT_ONCE = 2**24
"""Entries of the systems that are solved together."""


def refit(weight: torch.Tensor, moments: torch.Tensor, steps: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Least squares: the scales with the least ``(w - q) H (w - q)^T`` of each row, its integers given.

    A block none of whose steps counts, or that would get a scale of zero or less, keeps its own.

    Args:
        weight: ``[rows, columns]``, floating point.
        moments: ``H``, ``[columns, columns]``, positive definite.
        steps: integers less their zero points, ``[rows, blocks, block]``, floating point.
        scale: of each block, ``[rows, blocks, 1]``.

    Returns:
        As ``scale``.
    """
    rows, blocks, _ = steps.shape
    count = max(1, AT_ONCE // blocks**2)
    return torch.cat(
        [
            _refit(weight[i : i + count], moments, steps[i : i + count], scale[i : i + count])
            for i in range(0, rows, count)
        ]
    )


def _refit(weight: torch.Tensor, moments: torch.Tensor, steps: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    blocks, size = steps.shape[1:]
    moments = moments.to(weight.dtype)
    system = weight.new_empty(len(steps), blocks, blocks)
    for i in range(blocks):
        reach = steps[:, i] @ moments[i * size : (i + 1) * size]
        system[:, i] = (reach.view(len(steps), blocks, size) * steps).sum(2)
    wanted = ((weight @ moments).view(len(steps), blocks, size) * steps).sum(2, keepdim=True)
    diagonal = system.diagonal(dim1=1, dim2=2)
    dead = diagonal == 0
    diagonal += torch.where(dead, 1, 1e-6 * diagonal.mean(1, keepdim=True))
    found = torch.linalg.solve(system.double(), wanted.double()).to(scale.dtype)
    return torch.where(dead.unsqueeze(2) | (found <= 0), scale, found)
