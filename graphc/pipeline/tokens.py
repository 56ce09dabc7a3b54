"""Token files: the ids of a text as one flat file, mapped into memory, cut into windows for language models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphc.errors import RecipeError

DTYPES = ("uint16", "uint32", "int32", "int64")


class TokenBatches:
    """Batches of windows of a token file, ``{"input_ids": [batch, tokens], "labels": the same}``, int64.

    A target for a recipe: ``{target: "graphc:TokenBatches", kwargs: {path: ids.bin, tokens: 512, batch: 8}}``. The
    windows do not overlap; what is left at the end is dropped. Labels are the ids themselves, as Hugging
    Face's causal models take them: losses and ``perplexity`` compare each position with the next label.

    Args:
        path: ids one after the other, as ``write_tokens`` or ``numpy.tofile`` writes them.
        tokens: length of a window.
        batch: windows in a batch; the last batch of an epoch may have fewer.
        dtype: of the ids in the file.
        shuffle: draw a new order for each epoch, from torch's generator.
        mask: also give ``attention_mask``, all ones.

    Raises:
        RecipeError: the file is not there or shorter than a window, or an option is wrong.
    """

    def __init__(
        self, path: str | Path, tokens: int, batch: int, dtype: str = "uint16", shuffle: bool = True, mask: bool = False
    ) -> None:
        if dtype not in DTYPES:
            raise RecipeError(f"token ids cannot be {dtype}", where="data", hint=f"one of {', '.join(DTYPES)}")
        if tokens < 2 or batch < 1:
            raise RecipeError(f"a batch cannot be {batch} windows of {tokens} tokens", where="data")
        try:
            self.ids = np.memmap(path, np.dtype(dtype), "r")
        except (OSError, ValueError) as error:
            raise RecipeError(f"cannot read the token file {str(path)!r}", where="data", why=str(error)) from error
        self.tokens, self.batch, self.shuffle, self.mask = tokens, batch, shuffle, mask
        self.windows = len(self.ids) // tokens
        if not self.windows:
            why = f"it has {len(self.ids)} tokens, a window {tokens}"
            raise RecipeError(f"the token file {str(path)!r} is too short", where="data", why=why)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.windows // self.batch)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch."""
        order = torch.randperm(self.windows) if self.shuffle else torch.arange(self.windows)
        for first in range(0, self.windows, self.batch):
            chosen = order[first : first + self.batch].tolist()
            rows = [self.ids[i * self.tokens : (i + 1) * self.tokens].astype(np.int64) for i in chosen]
            ids = torch.from_numpy(np.stack(rows))
            yield {"input_ids": ids, "labels": ids} | ({"attention_mask": torch.ones_like(ids)} if self.mask else {})


def write_tokens(path: str | Path, ids: Iterable[Iterable[int]], dtype: str = "uint16") -> int:
    """Write token ids, text by text, to a file that ``TokenBatches`` reads; whole or not at all.

    Returns:
        How many there are.

    Raises:
        RecipeError: an id does not fit the dtype.
    """
    path = Path(path)
    kind, count = np.dtype(dtype), 0
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            for text in ids:
                values = np.fromiter(text, np.int64)
                if len(values) and not 0 <= values.min() <= values.max() <= np.iinfo(kind).max:
                    what = f"the token id {values.max()} does not fit {dtype}"
                    raise RecipeError(what, where="data", hint="use dtype uint32")
                file.write(values.astype(kind).tobytes())
                count += len(values)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
