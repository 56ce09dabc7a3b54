"""Fingerprint: what options, data and programs are, as text that is equal only where they are.

What cannot be told apart from something else (an object of a user's class, data that is too large to be
read whole) is not known: see ``Mark``.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from enum import Enum
from itertools import islice
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch

from graphc.emitters.stored import stored
from graphc.ir.digest import digest
from graphc.ir.program import Program
from graphc.pipeline.seeds import seed_all
from graphc.pipeline.sources import code_of
from graphc.pipeline.targets import call_target

LARGEST = 2**29
"""Bytes of data that are read to know it."""

TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
UNKNOWN = "?"
MOST_FILES = 10_000
"""How many files of a folder are read to know it."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """What is known of something.

    Attributes:
        text: equal for what is the same, as far as can be told.
        known: is what has the same text sure to be the same?
    """

    text: str
    known: bool


def mark(value: Any) -> Mark:
    """Of an option: literals, containers, dataclasses, tensors, functions and classes, files and targets by content."""
    words: list[str] = []
    known = _say(value, words)
    return Mark(digest(*words), known)


def _say(value: Any, words: list[str]) -> bool:
    """Add what a value is to the words; False if that is not all there is to it."""
    words.append(type(value).__name__)
    if isinstance(value, Mapping):
        return _every(_say(part, words) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)):
        return _every(_say(part, words) for part in (len(value), *value))
    if isinstance(value, (set, frozenset)):
        return _every(_say(part, words) for part in sorted(value, key=repr))
    if isinstance(value, torch.Tensor):
        words.append(digest(tensors=[value]))
        return True
    if isinstance(value, (str, Path)):
        words.append(str(value))
        return _say_named(str(value), words)
    if value is None or isinstance(value, (bool, int, float, complex, Enum, torch.dtype, torch.device)):
        words.append(repr(value))
        return True
    if isinstance(value, (type, FunctionType)):
        words.append(f"{value.__module__}:{value.__qualname__}")
        return _say_code(value.__module__, words) and "<locals>" not in value.__qualname__
    fields = _fields(value)
    if fields is not None:
        return _every([_say_code(type(value).__module__, words), _say(fields, words)])
    return False


def _every(found: Iterable[bool]) -> bool:
    """Is all true? Asks all of them, as each also adds its words."""
    return all(list(found))


def _fields(value: Any) -> dict[str, Any] | None:
    """All there is to an object, if it is but its fields."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(type(value), "model_fields"):
        return dict(value)
    return None


def _say_named(name: str, words: list[str]) -> bool:
    """What a text may speak of: code as ``package.module:callable``, or a file or folder that there is."""
    if TARGET.fullmatch(name):
        return _say_code(name.partition(":")[0], words)
    path = Path(name)
    if len(name) < 4096 and (path.suffix or "/" in name) and os.path.exists(path):  # a longer one is no path
        return _say_content(path, words)
    return True


def _say_code(module: str, words: list[str]) -> bool:
    found = code_of([module])
    words.append(found or UNKNOWN)
    return found is not None


def _say_content(path: Path, words: list[str]) -> bool:
    """A hash of a file, or of the files in a folder; False if they are too many or too large."""
    found = path.rglob("*") if path.is_dir() else iter([path])
    files = sorted(f for f in islice(found, MOST_FILES + 1) if f.is_file())
    if len(files) > MOST_FILES or sum(f.stat().st_size for f in files) > LARGEST:
        return False
    tensors = (torch.from_numpy(np.fromfile(f, np.uint8)) for f in files)
    words.append(digest(*(str(f.relative_to(path)) for f in files), tensors=tensors))
    return True


@dataclasses.dataclass(frozen=True)
class Made:
    """The data of a recipe: calls its target each time.

    Attributes:
        name: for errors.
        target, kwargs: of the recipe.
    """

    name: str
    target: str
    kwargs: Mapping[str, Any]

    def __call__(self) -> Iterable[Any]:
        """The batches."""
        made: Iterable[Any] = call_target(self.target, self.kwargs, f"data.{self.name}")
        return made

    def mark(self, whole: bool) -> Mark:
        """What is known: the code and the arguments, and, if it is asked for, every batch."""
        made = mark((self.target, dict(self.kwargs)))
        if not whole:
            return Mark(made.text, False)
        content = content_of(self())
        return Mark(digest(made.text, content or UNKNOWN), made.known and content is not None)


@dataclasses.dataclass(frozen=True)
class Given:
    """Data that is an iterable already, gone through each time."""

    value: Iterable[Any]

    def __call__(self) -> Iterable[Any]:
        """The batches."""
        return self.value

    def mark(self, whole: bool) -> Mark:
        """What is known: all there is to lists and tuples; of anything else, which reading may change, its class."""
        if whole and isinstance(self.value, (list, tuple)):
            content = content_of(self.value)
            return Mark(content or UNKNOWN, content is not None)
        return Mark(type(self.value).__qualname__, False)


def data_mark(data: Callable[[], Iterable[Any]], whole: bool) -> Mark:
    """What is known of a loader; ``whole`` reads all batches, where they are few enough."""
    if isinstance(data, (Made, Given)):
        return data.mark(whole)
    return Mark(mark(data).text, False)


def content_of(batches: Iterable[Any]) -> str | None:
    """A hash of all batches; None if they are too many, or hold what cannot be hashed."""
    size = 0
    words: list[str] = []
    with undisturbed():
        count = len(batches) if isinstance(batches, Sized) else 0
        for batch in batches:
            found: list[str] = []
            tensors: list[torch.Tensor] = []
            if not _parts(batch, found, tensors):
                return None
            own = sum(t.numel() * t.element_size() for t in tensors) + sum(map(len, found))
            size += own
            if size > LARGEST or (len(words) == 0 and own * count > LARGEST):
                return None
            words.append(digest(*found, tensors=tensors))
    return digest(*words)


def _parts(value: Any, words: list[str], tensors: list[torch.Tensor]) -> bool:
    """The tensors and the texts of a batch; False if it has something else."""
    words.append(type(value).__name__)
    if isinstance(value, Mapping):
        return _every(_parts(part, words, tensors) for item in value.items() for part in item)
    if isinstance(value, (list, tuple)):
        return _every(_parts(part, words, tensors) for part in (len(value), *value))
    if isinstance(value, np.ndarray) and value.dtype != object:
        value = torch.from_numpy(value.copy())
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return True
    words.append(repr(value))
    return value is None or isinstance(value, (bool, int, float, str))


@contextmanager
def undisturbed(seed: int = 0) -> Iterator[None]:
    """What is drawn meanwhile follows from the seed, and what is drawn afterwards does not notice."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seed_all(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def program_digest(program: Program, original: Program) -> str:
    """A hash of all that there is to a program.

    Raises:
        GraphError: it has something that cannot be written down.
    """
    record, tensors = stored(program, original)
    return digest(repr(record), tensors=tensors.values())
