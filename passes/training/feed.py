"""Feed: batches in a fixed order that an interrupted training finds again, shared among processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphc.errors import RecipeError
from graphc.ir.program import Program
from graphc.pipeline.batches import Batch, fed
from graphc.pipeline.seeds import seed_all

EPOCH = 7919
"""How far the seeds of two epochs are apart."""


@dataclass(frozen=True)
class Feed:
    """Batches for training.

    What a loader draws (an order, a crop) follows from the seed and the epoch alone, so that an
    interrupted epoch can be gone through again up to where it was. Every process reads all batches
    and takes its share of each, so that training does not depend on how many there are.

    Attributes:
        program: what the batches go into.
        load: gives the batches of an epoch.
        seed: of what the loader draws.
        labels: the name of the labels in batches that are mappings; None for the usual ones.
        rank, world: which process of how many.
        device: where batches go.
    """

    program: Program
    load: Callable[[], Iterable[Any]]
    seed: int
    labels: str | None = None
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from some batch on.

        Raises:
            RecipeError: a batch does not fit the program or is smaller than the number of processes,
                or there is none.
        """
        seed_all(self.seed + EPOCH * (number + 1))
        seen = 0
        for given in self.load():
            seen += 1
            if seen > skip:
                yield self._share(fed(self.program, given, self.device, self.labels))
        if not seen:
            hint = "a loader must give at least one batch each time; a generator gives its batches only once: "
            raise RecipeError("the data is empty", where="data", hint=hint + "give a function that makes one")

    def length(self) -> int:
        """Batches in an epoch: what the loader says, or counted by going through it once."""
        loader: Any = self.load()
        try:
            return len(loader)
        except TypeError:  # it has no length, or is a DataLoader whose data set has none
            seed_all(self.seed + EPOCH)
            return sum(1 for _ in loader)

    def _share(self, batch: Batch) -> Batch:
        """This process's part of a batch."""
        if self.world == 1:
            return batch
        if batch.size < self.world:
            what = f"a batch has {batch.size} samples and there are {self.world} processes"
            raise RecipeError(what, where="data", hint="make batches larger, or drop the last one (drop_last)")
        rows = torch.arange(batch.size).tensor_split(self.world)[self.rank].to(self.device)
        return batch.of(lambda value: value.index_select(0, rows), len(rows))


class Endless:
    """The batches of a feed, epoch after epoch; what they draw is apart from what others draw meanwhile.

    Args:
        feed: has the batches.
        done: how many were taken before.

    Raises:
        RecipeError: there is no batch, or one does not fit the program.
    """

    def __init__(self, feed: Feed, done: int = 0) -> None:
        self.feed = feed
        self.epoch, skip = divmod(done, max(1, feed.length()))
        self.batches = feed.epoch(self.epoch, skip)
        self.drawn: tuple[Any, ...] | None = None

    def __next__(self) -> Batch:
        others = _random()
        if self.drawn is not None:
            _go_on(self.drawn)
        try:
            batch = next(self.batches, None)
            if batch is None:
                self.epoch += 1
                self.batches = self.feed.epoch(self.epoch)
                batch = next(self.batches)
            self.drawn = _random()
            return batch
        finally:
            _go_on(others)


def _random() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _go_on(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
