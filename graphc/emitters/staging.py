"""Writing without traces: everything is made in a hidden sibling folder and moved at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graphc.errors import EmitError

MARK = "program.json"
"""The file by which a folder is known as one of ours, which may be replaced."""


def check_writable(path: str | Path) -> None:
    """See that an artifact could be written here, before any long work.

    Missing parent folders are made.

    Raises:
        EmitError: the folder cannot be made or written, or the path is a folder of something else.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".graphc-", dir=path.parent):
            pass
    except OSError as error:
        raise EmitError(
            "the artifact cannot be written there",
            where=str(path),
            why=f"{type(error).__name__}: {error.strerror}",
            hint="choose a folder that exists, has room, and may be written",
        ) from error
    if path.is_dir() and any(path.iterdir()) and not (path / MARK).is_file():
        raise EmitError(
            "the artifact would replace a folder that graphc did not write",
            where=str(path),
            why=f"it is not empty and has no {MARK}",
            hint="choose a new or an empty folder",
        )


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A place to write ``path`` (and files beside it) that appears only if the block succeeds.

    Yields a path of the same name in a new hidden folder beside it. Afterwards everything in that
    folder is moved beside ``path``, ``path`` itself last, so what is seen is old or new but never
    half of it. On any error or interruption the folder goes and nothing changes.
    """
    check_writable(path)
    with tempfile.TemporaryDirectory(prefix=".graphc-", dir=path.parent) as folder:
        inside = Path(folder) / path.name
        yield inside
        beside = sorted(entry for entry in Path(folder).iterdir() if entry != inside)
        for entry in [*beside, inside]:
            _move(entry, path.parent / entry.name, Path(folder))


def _move(entry: Path, target: Path, folder: Path) -> None:
    if not entry.is_dir():
        os.replace(entry, target)
        return
    if not target.is_dir():
        entry.rename(target)
        return
    old = folder / f".old-{target.name}"
    target.rename(old)
    try:
        entry.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
