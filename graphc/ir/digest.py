"""Digest: one short text that stands for texts and tensors, equal only where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch


def digest(*parts: str, tensors: Iterable[torch.Tensor] = ()) -> str:
    """A hash of texts and of the bytes of tensors."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part.encode() + b"\0")
    for tensor in tensors:
        found.update(str((tensor.dtype, list(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
