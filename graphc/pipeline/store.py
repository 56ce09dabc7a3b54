"""Store: results of passes in a folder, one safetensors file each, whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from graphc.emitters.exporting import own_memory
from graphc.emitters.staging import room, staged
from graphc.emitters.stored import read, stored
from graphc.errors import GraphError
from graphc.ir.digest import digest
from graphc.ir.program import Program

SUFFIX = ".result"
FORMAT = 1
HEADER = "graphc"
NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")
DAMAGE = (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, GraphError)
"""What reading a file raises that is not what was written."""


@dataclass(frozen=True)
class Entry:
    """The result of a pass, without its tensors.

    Attributes:
        path: of its file.
        bytes: of it.
        created: seconds since 1970.
        title: of the pass.
        recipe: what it was compiled for: a recipe's model.
        seconds: that the pass took.
        reads: what the pass read, by name, each with its mark.
        told: facts for the report that it told meanwhile, by pass.
        note: the pass with its options.
    """

    path: Path
    bytes: int
    created: float
    title: str
    recipe: str
    seconds: float
    reads: Mapping[str, str]
    told: Mapping[str, Any]
    note: str

    @property
    def age(self) -> float:
        """Seconds since it was written, or last taken."""
        return max(0.0, time.time() - self.path.stat().st_mtime)

    def to_dict(self) -> dict[str, Any]:
        """What a user may want to know of it; JSON-able."""
        return {
            "file": self.path.name,
            "pass": self.title,
            "note": self.note,
            "recipe": self.recipe,
            "bytes": self.bytes,
            "age_seconds": round(self.age, 1),
            "pass_seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Store:
    """A folder of results.

    Attributes:
        folder: need not exist.
        sure: are results taken only where everything that the pass read is known? A store of one run may trust
            that data of the same name is the same.
    """

    folder: Path
    sure: bool

    def path(self, key: str, reads: Mapping[str, str]) -> Path:
        """Where the result for a key goes."""
        return self.folder / f"{key}-{digest(*(text for item in sorted(reads.items()) for text in item))}{SUFFIX}"

    def find(self, key: str, marks: Callable[[str], str | None]) -> Entry | None:
        """The entry for a key for which what the pass read then is as it is now.

        Args:
            key: of the pass, its options and its program.
            marks: gives what something that a pass reads is now; None if that cannot be known.
        """
        for path in sorted(self.folder.glob(f"{key}-*{SUFFIX}")):
            entry = entry_of(path)
            if entry is not None and all(marks(name) == text for name, text in entry.reads.items()):
                return entry
        return None

    def put(self, key: str, entry: Entry, program: Program, original: Program) -> None:
        """Keep a result; ``entry`` without path and size.

        Raises:
            GraphError: it cannot be read back exactly, or there is no room for it.
        """
        record, tensors = stored(program, original)
        own = {name: value.detach().contiguous() for name, value in own_memory(tensors).items()}
        size = sum(value.numel() * value.element_size() for value in own.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        room(self.folder, 2 * size, "results of passes")
        facts = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry) if f.name not in ("path", "bytes")}
        content = {"format": FORMAT, **facts, "program": record, "digest": _digest(own)}
        with staged(self.path(key, entry.reads)) as inside:
            save_file(own, inside, {HEADER: json.dumps(content)})

    def take(self, entry: Entry, original: Program) -> Program:
        """The program of an entry.

        Raises:
            GraphError: the file is damaged.
        """
        try:
            with safe_open(entry.path, "pt") as file:
                content = json.loads(file.metadata()[HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            if _digest(tensors) != content["digest"]:
                raise GraphError("its tensors are not what was written")
            program = read(content["program"], tensors, original)
        except DAMAGE as error:
            hint = "it is made anew; `graphc cache --prune` removes what is damaged"
            raise GraphError(
                "a result in the cache cannot be read", where=str(entry.path), why=str(error), hint=hint
            ) from error
        entry.path.touch()  # what is taken is not old
        return program


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    return digest(*sorted(tensors), tensors=(tensors[name] for name in sorted(tensors)))


def entry_of(path: Path) -> Entry | None:
    """What a file says of itself; None if it is no result, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()[HEADER])
        if content["format"] != FORMAT:
            return None
        names = [f.name for f in dataclasses.fields(Entry) if f.name not in ("path", "bytes")]
        return Entry(path=path, bytes=path.stat().st_size, **{name: content[name] for name in names})
    except DAMAGE:
        return None


def results(folder: Path) -> list[Path]:
    """The files of results in a folder."""
    return sorted(p for p in folder.glob(f"*{SUFFIX}") if NAME.fullmatch(p.name.removesuffix(SUFFIX)) and p.is_file())


def remove(path: Path) -> int:
    """Remove a result; its bytes."""
    size = path.stat().st_size
    os.unlink(path)
    return size
