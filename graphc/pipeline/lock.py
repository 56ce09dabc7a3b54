"""Lock: one compile at a time in an output folder; the system lets go of it when the process ends, however it ends."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from graphc.emitters.staging import recover, writing
from graphc.errors import GraphError

NAME = ".graphc.lock"

_held: set[Path] = set()
"""Folders that this process holds: a lock of the system is the process's, not the thread's."""


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder until the block ends; True if a compile that held it before was cut off.

    The file stays where it is unless nothing else came into the folder: what counts is the lock on it, which no
    process holds after its end. So the file that a killed compile left is recognised at once.

    Raises:
        GraphError: another compile is in the folder; says which.
    """
    folder = folder.resolve()
    path = folder / NAME
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _try(file) or not _is_there(file, path):
            raise _taken(folder)
        _held.add(folder)
        try:
            file.seek(0)
            cut_off = bool(file.read().strip())
            _write(file, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
            yield cut_off
            _write(file, None)
        finally:
            _held.discard(folder)
            if sys.platform != "win32" and [p.name for p in folder.iterdir()] == [NAME]:
                path.unlink()


@contextmanager
def occupied(folder: Path | None) -> Iterator[bool]:
    """Hold an output folder, with what killed processes left in it finished or removed; nothing without a folder.

    Yields whether a compile was cut off there.

    Raises:
        GraphError: another compile is in it, or the disk gets full.
    """
    if folder is None:
        yield False
        return
    with locked(folder) as cut_off, writing(folder / NAME):
        recover(folder)
        yield cut_off


def check_free(folder: Path) -> None:
    """See that no compile is in a folder, before any work.

    Raises:
        GraphError: one is.
    """
    folder = folder.resolve()
    if folder in _held:
        raise _taken(folder)
    if (folder / NAME).exists():
        with (folder / NAME).open("a+", encoding="utf-8") as file:
            if not _try(file):
                raise _taken(folder)


def _try(file: IO[str]) -> bool:
    """Take the lock, or see that another process has it. It is the process's alone: a worker that it forks has none."""
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - of one system

            file.seek(2**30)  # a place that holds nothing: what is locked cannot be read there
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - of the others

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_there(file: IO[str], path: Path) -> bool:
    """Is the file that was locked still the one in the folder, and not removed by who held it until now?"""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _taken(folder: Path) -> GraphError:
    hint = "wait until it has ended, or give another output_dir (-o FOLDER)"
    return GraphError("another compile is writing to this folder", where=str(folder), why=_holder(folder), hint=hint)


def _write(file: IO[str], content: Any) -> None:
    with writing(Path(file.name)):
        file.seek(0)
        file.truncate()
        if content is not None:
            json.dump(content, file)
        file.flush()


def _holder(folder: Path) -> str:
    """Who holds it, as far as the file tells."""
    if folder in _held:
        return f"this process, {os.getpid()}, holds {NAME}"
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return (
            f"process {content['pid']} on {content['host']} holds {NAME} since {int(time.time() - content['since'])} s"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return f"a process holds {NAME}"
