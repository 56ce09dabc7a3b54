"""Writing without traces: everything is made in a hidden sibling folder and moved at the end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from graphc.errors import EmitError

MARK = "program.json"
"""The file by which a folder is known as one of ours, which may be replaced."""
HIDDEN = re.compile(r"\.graphc-(\d+)-\w+")
"""Names of hidden folders, with the process that writes there."""
READY = ".ready"
"""In a hidden folder: everything is written, and these are the names to move, in this order."""
OLD = ".old"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WORDS = ("No space left", "os error 28", "File too large", "quota exceeded", "PytorchStreamWriter failed")
"""How libraries that hide the number of an error say that there is no room."""

_mine: set[str] = set()
"""Names of the hidden folders in which this process writes."""


class NoRoomError(EmitError):
    """The disk is full."""


def check_writable(path: str | Path) -> None:
    """See that an artifact could be written here, before any long work.

    Missing parent folders are made.

    Raises:
        EmitError: the folder cannot be made or written, or the path is a folder of something else.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _hidden(path.parent) as folder:
            (folder / path.name).touch()  # its name may be too long, or none that a file can have
    except (OSError, ValueError) as error:
        raise EmitError(
            "the artifact cannot be written there",
            where=repr(str(path)) if "\0" in str(path) else str(path),
            why=f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}",
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
def _hidden(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".graphc-{os.getpid()}-", dir=folder) as name:
        _mine.add(Path(name).name)
        try:
            yield Path(name)
        finally:
            _mine.discard(Path(name).name)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A place to write ``path`` (and files beside it) that appears only if the block succeeds.

    Yields a path of the same name in a new hidden folder beside it. Afterwards everything in that
    folder is moved beside ``path``, ``path`` itself last, so what is seen is old or new but never
    half of it. On any error or interruption the folder goes and nothing changes; where the process is
    killed while it moves several files, ``recover`` moves the rest.

    Raises:
        EmitError: it cannot be written there, or the disk is full.
    """
    check_writable(path)
    recover(path.parent)
    with writing(path), _hidden(path.parent) as folder:
        inside = folder / path.name
        yield inside
        names = [*sorted(entry.name for entry in folder.iterdir() if entry != inside), inside.name]
        for file in folder.rglob("*"):
            _settle(file)
        if len(names) > 1:
            (folder / READY).write_text(json.dumps(names), encoding="utf-8")
            _settle(folder / READY)
        _publish(folder, names)


def _settle(file: Path) -> None:
    """See that a file is on the disk before it takes the place of another."""
    if file.is_file():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _publish(folder: Path, names: list[str]) -> None:
    """Move what is in a hidden folder beside it; goes on where it was cut off.

    Of several files the old main one goes first and the new one comes last: it never stands beside others' files.
    """
    main, old = folder.parent / names[-1], folder / OLD
    if (folder / names[-1]).exists() and main.exists() and (len(names) > 1 or main.is_dir()):
        main.rename(old)
    try:
        for name in names:
            if (folder / name).exists():
                os.replace(folder / name, folder.parent / name)
    except BaseException:
        if old.exists() and not main.exists():
            old.rename(main)
        raise


def recover(folder: Path) -> list[str]:
    """Finish or remove what processes that no longer run left in hidden folders; the names that were finished."""
    finished: list[str] = []
    for hidden in folder.glob(".graphc-*"):
        found = HIDDEN.fullmatch(hidden.name)
        if found is None or not hidden.is_dir() or hidden.name in _mine or _runs(int(found[1])):
            continue
        try:
            names = json.loads((hidden / READY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            names = _of_one(hidden)
        if names:
            _publish(hidden, names)
            finished += names
        shutil.rmtree(hidden, ignore_errors=True)
    return finished


def _of_one(hidden: Path) -> list[str]:
    """The name of a folder whose old form had been put aside, and whose new one is whole."""
    names = [entry.name for entry in hidden.iterdir() if entry.name != OLD]
    return names if (hidden / OLD).exists() and len(names) == 1 else []


def _runs(pid: int) -> bool:
    """Does another process of this number run? Where that cannot be asked without harm, it is taken to."""
    if pid == os.getpid() or sys.platform == "win32":
        return pid != os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say clearly that the disk is full, whichever library finds out.

    Raises:
        NoRoomError: it is.
    """
    try:
        yield
    except NoRoomError:
        raise
    except Exception as error:
        found = _full(error)
        if found is None:
            raise
        free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        raise NoRoomError(
            "there is no room left on the disk",
            where=str(path),
            why=f"{next(iter(str(found).splitlines()), '')} ({free / 1e6:.1f} MB are free)",
            hint="make room, or choose another place; what was there before is as it was",
        ) from error


def _full(error: BaseException | None) -> BaseException | None:
    """The error in a chain of causes that says that the disk is full."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or any(word in str(error) for word in WORDS):
            return error
        error = error.__cause__ or error.__context__
    return None


def room(folder: Path, size: int, what: str) -> None:
    """See that there is room.

    Raises:
        NoRoomError: there is not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        why = f"they need {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are free"
        raise NoRoomError(f"there is no room for {what}", where=str(folder), why=why)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
