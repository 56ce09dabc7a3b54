"""Pruning: what is in the cache, and what of it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.emitters.staging import recover
from graphc.errors import GraphError
from graphc.pipeline.cache import FOLDER
from graphc.pipeline.lock import NAME, occupied
from graphc.pipeline.store import Entry, entry_of, remove, results


@dataclass(frozen=True)
class Listing:
    """Results in a folder.

    Attributes:
        folder: that has them.
        entries: what was taken or written last comes first.
        damaged: files that cannot be read.
        removed: names of those that are gone, and their bytes.
    """

    folder: Path
    entries: tuple[Entry, ...]
    damaged: tuple[Path, ...] = ()
    removed: tuple[str, ...] = ()
    freed: int = 0

    @property
    def bytes(self) -> int:
        """Of all entries."""
        return sum(entry.bytes for entry in self.entries)

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {
            "folder": str(self.folder),
            "bytes": self.bytes,
            "entries": [entry.to_dict() for entry in self.entries],
            "damaged": [path.name for path in self.damaged],
            "removed": list(self.removed),
            "bytes_freed": self.freed,
        }


def listing(folder: Path) -> Listing:
    """The results in a ``cache_dir``, or in the output folder of a compile.

    Raises:
        GraphError: there is no such folder.
    """
    if not folder.is_dir():
        raise GraphError("there is no such folder", where=str(folder), hint="give a cache_dir or an output folder")
    own = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    found = [(path, entry_of(path)) for path in results(own)]
    entries = sorted((entry for _, entry in found if entry is not None), key=lambda entry: entry.age)
    return Listing(own, tuple(entries), tuple(path for path, entry in found if entry is None))


def prune(
    folder: Path, recipe: str | None = None, older_than: float | None = None, max_bytes: int | None = None
) -> Listing:
    """Remove results; what remains, and what is gone.

    Args:
        folder: a ``cache_dir``, or the output folder of a compile.
        recipe: only results for this recipe.
        older_than: only those that nobody took for so many seconds.
        max_bytes: of these as few as leave no more in the folder, the longest unused first.

    Raises:
        GraphError: there is no such folder, or a compile is writing there.
    """
    found = listing(folder)
    with occupied(folder if (folder / NAME).exists() else None):
        recover(found.folder)
        chosen = [entry for entry in reversed(found.entries) if _chosen(entry, recipe, older_than)]
        if max_bytes is not None:
            chosen = _largest_share(chosen, found.bytes - max_bytes)
        gone: list[Path] = [*found.damaged, *(entry.path for entry in chosen)]
        freed = sum(remove(path) for path in gone)
    left = tuple(entry for entry in found.entries if entry not in chosen)
    return Listing(found.folder, left, (), tuple(path.name for path in gone), freed)


def _chosen(entry: Entry, recipe: str | None, older_than: float | None) -> bool:
    return (recipe is None or entry.recipe == recipe) and (older_than is None or entry.age >= older_than)


def _largest_share(entries: Sequence[Entry], excess: int) -> list[Entry]:
    """The first entries whose bytes are at least the excess."""
    taken: list[Entry] = []
    for entry in entries:
        if excess <= 0:
            break
        taken.append(entry)
        excess -= entry.bytes
    return taken
