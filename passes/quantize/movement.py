"""Ops that give entries of a tensor elsewhere, several times or in part: views, transpositions, slices, splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .ties import Ties, broadcast, collapse

Move = Callable[[torch.Tensor], torch.Tensor]
"""Gives entries of a tensor of a certain shape."""


class Movement:
    """One op of this kind: where the entries of its results come from.

    Args:
        shape: of the tensor.
        moves: each gives one result.
    """

    def __init__(self, shape: Sequence[int], moves: Sequence[Move]) -> None:
        self.shape = list(shape)
        self.moves = moves
        along = [self._run([i]) for i in range(len(shape))]
        self.follow = [[_varying(places) for places in results] for results in along]
        """For each dim of the tensor, and each result, the dims of that in which its positions change."""
        self.whole = [[_all_there(places, n) for places in results] for results, n in zip(along, shape, strict=True)]
        """For each dim of the tensor, and each result, whether that has all of its positions."""

    def maps(
        self, ties: Ties, source: torch.Tensor | None, results: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Maps of the tensor and of the results, from what is known of each: at least of one."""
        dims = self._dims(source, results)
        moved = self._run(dims)
        shape = [n if i in dims else 1 for i, n in enumerate(self.shape)]
        known = torch.full(shape, -1) if source is None else source.expand(shape)
        flat = known.flatten()
        for place, result in zip(moved, results, strict=True):
            if result is not None:
                place, units = broadcast(place, result)
                flat = flat.scatter_reduce(0, place.flatten(), units.flatten(), "amax")
                ties.tie(flat[place], units)
        ties.tie(flat.reshape(shape), known)
        return collapse(flat.reshape(shape)), [collapse(flat[place]) for place in moved]

    def _dims(self, source: torch.Tensor | None, results: Sequence[torch.Tensor | None]) -> set[int]:
        """Dims of the tensor that what is known depends on."""
        dims = set() if source is None else _varying(source)
        for i, facts in enumerate(zip(self.follow, self.whole, strict=True)):
            for result, follow, whole in zip(results, *facts, strict=True):
                if result is not None and (not whole or follow & _varying(result)):
                    dims.add(i)
        return dims

    def _run(self, dims: Sequence[int] | set[int]) -> list[torch.Tensor]:
        """For each entry of each result where it comes from, of places that are numbered along these dims only."""
        shape = [n if i in dims else 1 for i, n in enumerate(self.shape)]
        places = torch.arange(torch.Size(shape).numel()).reshape(shape).expand(self.shape)
        return [collapse(move(places)) for move in self.moves]


def _varying(units: torch.Tensor) -> set[int]:
    return {i for i, n in enumerate(units.shape) if n > 1}


def _all_there(places: torch.Tensor, size: int) -> bool:
    return bool(torch.bincount(places.flatten(), minlength=size).all())
