"""Bases: in which directions a matrix lies, by how much each matters."""

from __future__ import annotations

from dataclasses import dataclass

import torch

ROWS = 4096
"""Rows of a tall matrix that are looked at together."""


@dataclass(frozen=True)
class Basis:
    """A matrix cut to its first ``r`` directions is a projection: of its rows, or of its columns.

    Attributes:
        squares: what each direction is worth: squares of singular values, greatest first; ``[n]``, double.
        into, back: ``[side, n]`` and ``[n, side]``, each the inverse of the other.
        on_rows: the matrix is ``into (back W)``; else ``(W into) back``.
    """

    squares: torch.Tensor
    into: torch.Tensor
    back: torch.Tensor
    on_rows: bool

    def factors(self, matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``[rows, rank]`` and ``[rank, columns]``, of which each unit's two halves are of one norm."""
        into, back = self.into[:, :rank].to(matrix.dtype), self.back[:rank].to(matrix.dtype)
        left, right = (into, back @ matrix) if self.on_rows else (matrix @ into, back)
        share = (right.norm(dim=1) / left.norm(dim=0)).sqrt()
        share = torch.where(torch.isfinite(share) & (share > 0), share, 1)
        return left * share, right / share[:, None]


def basis(matrix: torch.Tensor, moments: torch.Tensor | None = None) -> Basis:
    """The singular value decomposition of ``W``, or of ``W S`` with ``S S^T`` the moments, by a Gram matrix in double.

    The best approximation of ``W x`` for data with these second moments: of least ``||(W - W_r) S||`` (Yuan et al.
    2023, ASVD; Wang et al. 2024, SVD-LLM), here without an inverse of ``S``.

    Args:
        matrix: ``[rows, columns]``.
        moments: ``[columns, columns]``, in double precision.
    """
    rows, columns = matrix.shape
    if rows <= columns:
        wide = matrix.double()
        squares, vectors = _directions(wide @ wide.t() if moments is None else wide @ moments @ wide.t())
        return Basis(squares, vectors, vectors.t(), True)
    gram = torch.zeros(columns, columns, dtype=torch.float64, device=matrix.device)
    for part in torch.split(matrix, ROWS):
        wide = part.double()
        gram += wide.t() @ wide
    squares, vectors = _directions(gram)
    if moments is None:
        return Basis(squares, vectors, vectors.t(), False)
    lengths = squares.sqrt()
    lengths = lengths.clamp(min=float(lengths[0]) * 1e-9 or 1.0)
    back = lengths[:, None] * vectors.t()
    squares, turn = _directions(back @ moments @ back.t())
    return Basis(squares, (vectors / lengths) @ turn, turn.t() @ back, False)


def _directions(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0).clamp(min=0), vectors.flip(1)
