"""Coordinate descent: integers of a weight, each made the best one while all others stay."""

from __future__ import annotations

import torch

TOGETHER = 64
"""Columns whose changes reach the rest of the gradient in one product."""


def descend(
    weight: torch.Tensor,
    moments: torch.Tensor,
    integers: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    limits: tuple[int, int],
) -> torch.Tensor:
    """One round over the columns; ``(w - q) H (w - q)^T`` of no row grows (Behdin et al. 2023, QuantEase).

    With all others given the best value of an entry is ``q_j + ((w - q) H)_j / H_jj``, rounded to its grid. An entry
    of the weight that is zero stays zero.

    Args:
        weight: ``[rows, columns]``, floating point.
        moments: ``H``, ``[columns, columns]``, positive definite.
        integers: to begin with, floating point, ``[rows, columns]``.
        scale, zero_point: of each entry, likewise.
        limits: least and greatest integer.
    """
    moments = moments.to(weight.dtype)
    found, scales, zeros = (v.t().contiguous() for v in (integers, scale, zero_point))
    stay = (weight == 0).t()
    gradient = moments @ (weight.t() - (found - zeros) * scales)  # [columns, rows]
    for first in range(0, len(found), TOGETHER):
        last = min(first + TOGETHER, len(found))
        changes = torch.zeros_like(found[first:last])
        for i in range(first, last):
            slope = gradient[i] - moments[i, first:last] @ changes
            best = found[i] + slope / (moments[i, i] * scales[i])
            best = torch.where(stay[i], zeros[i], best.round().clamp(*limits))
            changes[i - first] = (best - found[i]) * scales[i]
            found[i] = best
        gradient -= moments[:, first:last] @ changes
    return found.t()
