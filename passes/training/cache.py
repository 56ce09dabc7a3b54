"""Cache: what a teacher gives, on disk, sample by sample, so that it runs once for each."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphc.errors import RecipeError
from graphc.pipeline.batches import Batch

from .checkpoint import digest
from .stage import Teachings, apart
from .teacher import Teacher

KEY = np.dtype([("hash", "S16"), ("offset", "<i8"), ("layout", "<i4")])
"""One entry of the index: the hash of a sample's inputs, and where its values are and of what form."""

Layout = list[tuple[str, list[int]]]
"""Of each value dtype and shape, without the batch."""


class Cache:
    """A teacher whose values are looked up where the same sample was seen before.

    A sample is known by the bytes of its inputs, so the order of the data does not matter; what random
    augmentation makes is new each time and is not worth keeping. Values are in one file that is mapped
    into memory, never read whole.

    Args:
        teacher: runs where a sample of a batch is new.
        folder: where the values are kept; those of another teacher or of other places stay apart. None is a
            temporary one.
    """

    def __init__(self, teacher: Teacher, folder: Path | None) -> None:
        self.teacher = teacher
        self.temporary = tempfile.TemporaryDirectory(prefix="graphc-teacher-") if folder is None else None
        folder = folder or Path(self.temporary.name if self.temporary is not None else "")
        places = json.dumps([(place.output, place.nodes) for place in teacher.reader.places])
        self.folder = folder / digest(str(teacher.program), places, tensors=teacher.program.tensors().values())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.values, self.keys, self.layouts = (self.folder / n for n in ("values.bin", "keys.bin", "layouts.json"))
        self.known: dict[bytes, tuple[int, int]] = {}
        self.forms: list[Layout] = json.loads(self.layouts.read_text()) if self.layouts.exists() else []
        self.hits = self.misses = 0
        self._read()

    def told(self) -> list[str]:
        """How often the teacher ran."""
        asked = self.hits + self.misses
        return [f"the teacher ran for {self.misses:,} of {asked:,} samples; {self.size / 1e6:.1f} MB kept"]

    def _read(self) -> None:
        """The index, without entries whose values were not written to their end."""
        self.size = self.values.stat().st_size if self.values.exists() else 0
        content = self.keys.read_bytes() if self.keys.exists() else b""
        entries = np.frombuffer(content[: len(content) // KEY.itemsize * KEY.itemsize], KEY)
        for entry in entries:
            offset, layout = int(entry["offset"]), int(entry["layout"])
            if layout < len(self.forms) and offset + _bytes(self.forms[layout]) <= self.size:
                self.known[bytes(entry["hash"]).ljust(16, b"\0")] = (offset, layout)

    def __call__(self, batch: Batch) -> Teachings:
        """What the teacher has for a batch, from the disk if it is all there."""
        hashes = samples(batch)
        places = [self.known.get(key) for key in hashes]
        found = [place for place in places if place is not None]
        if len(found) == len(places) and len({layout for _, layout in found}) == 1:
            self.hits += len(found)
            return self._look_up(found, batch)
        self.misses += len(hashes)
        teachings = self.teacher(batch)
        self._keep(hashes, [value for term in teachings for place in term for value in place])
        return teachings

    def _look_up(self, found: Sequence[tuple[int, int]], batch: Batch) -> Teachings:
        layout = self.forms[found[0][1]]
        width = _bytes(layout)
        stored = np.memmap(self.values, np.uint8, "r")
        rows = torch.from_numpy(np.stack([stored[offset : offset + width] for offset, _ in found]))
        device = next(t.device for t in pytree.tree_leaves((batch.args, dict(batch.kwargs))) if isinstance(t, Tensor))
        values: list[Tensor] = []
        at = 0
        for name, shape in layout:
            dtype: torch.dtype = getattr(torch, name)
            size = prod(shape) * dtype.itemsize
            values.append(rows[:, at : at + size].contiguous().view(dtype).view(-1, *shape).to(device))
            at += size
        left = iter(values)
        flat = [tuple(islice(left, 3 if place.attention else 1)) for place in self.teacher.reader.places]
        return apart(flat, [len(term.teacher) for term in self.teacher.terms])

    def _keep(self, hashes: Sequence[bytes], values: Sequence[Tensor]) -> None:
        """Append what is new: first the values, then their keys.

        Raises:
            RecipeError: a value has no row for each sample.
        """
        for value in values:
            if value.shape[:1] != (len(hashes),):
                why = f"a value is {list(value.shape)} for {len(hashes)} samples"
                raise RecipeError("the teacher's values cannot be kept by sample", where="teacher_cache", why=why)
        layout: Layout = [(str(v.dtype).removeprefix("torch."), list(v.shape[1:])) for v in values]
        if layout not in self.forms:
            self.forms.append(layout)
            temporary = self.layouts.with_suffix(".part")
            temporary.write_text(json.dumps(self.forms))
            temporary.replace(self.layouts)
        form = self.forms.index(layout)
        rows = np.concatenate([_rows(value) for value in values], 1)
        new = [i for i, key in enumerate(hashes) if key not in self.known]
        entries = np.zeros(len(new), KEY)
        with self.values.open("ab") as file:
            for entry, i in zip(entries, new, strict=True):
                self.known[hashes[i]] = (self.size, form)
                entry["hash"], entry["offset"], entry["layout"] = hashes[i], self.size, form
                file.write(rows[i].tobytes())
                self.size += rows.shape[1]
        with self.keys.open("ab") as file:
            file.write(entries.tobytes())


def _rows(value: Tensor) -> np.ndarray[Any, Any]:
    """Each sample's bytes, ``[samples, bytes]``."""
    return value.detach().cpu().contiguous().view(len(value), -1).view(torch.uint8).numpy()


def _bytes(layout: Layout) -> int:
    return sum(prod(shape) * getattr(torch, name).itemsize for name, shape in layout)


def samples(batch: Batch) -> list[bytes]:
    """A hash of the inputs of each sample of a batch."""
    given = batch.args, dict(batch.kwargs), dict(batch.others)
    leaves = [v for v in pytree.tree_leaves(given) if isinstance(v, Tensor)]
    parts = [_rows(value.reshape(len(value), -1)) for value in leaves if value.dim() and len(value) == batch.size]
    form = repr([(str(v.dtype), list(v.shape[1:])) for v in leaves]).encode()
    return [
        hashlib.blake2b(form + b"".join(p[i].tobytes() for p in parts), digest_size=16).digest()
        for i in range(batch.size)
    ]
