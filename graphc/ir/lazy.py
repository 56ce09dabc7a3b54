"""Lazy tensors: weights that stay in their files until something computes with them.

A lazy tensor says its shape and dtype like any other, and which units of its dims are left. A slice only
notes the units that stay; every other op reads the tensor, works on what was read, and lets go of it. So
a program of lazy tensors is sliced without reading a weight, and runs with one weight in memory at a time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.utils import _pytree as pytree

from graphc.errors import GraphError

BLOCK = 2**26
"""Bytes of a tensor that are read at once where it is only handed on."""

Kept = tuple[torch.Tensor | None, ...]
"""For each dim of a stored tensor the indices that are left, int64; None for all."""

_PROPERTIES = (
    "shape dtype device layout ndim itemsize nbytes requires_grad is_leaf grad grad_fn retains_grad names is_cpu "
    "is_cuda is_meta is_mps is_xpu is_sparse is_sparse_csr is_mkldnn is_quantized is_nested _base _version"
).split()
_METHODS = (
    "dim ndimension size numel nelement stride storage_offset element_size requires_grad_ is_contiguous "
    "is_floating_point is_complex is_signed is_conj is_neg is_inference get_device"
).split()


def _describing() -> Iterator[Any]:
    for name in _PROPERTIES:
        if hasattr(member := getattr(torch.Tensor, name, None), "__get__"):
            yield member.__get__  # type: ignore[union-attr] # seen in the line above
    yield from (member for name in _METHODS if (member := getattr(torch.Tensor, name, None)) is not None)
    yield torch.Tensor.requires_grad.__set__  # type: ignore[attr-defined] # a descriptor


DESCRIBING = frozenset(_describing())
"""What tells something of a tensor without its entries."""


@dataclass(frozen=True)
class Source:
    """A tensor in a safetensors file.

    Attributes:
        path, key: where it is.
        shape, dtype: what the file says of it.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.key} in {self.path}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[torch.Tensor]:
        """The tensor as mapped memory: pages come as they are read, and go when nothing refers to it.

        Raises:
            GraphError: the file is gone, or has other content than it had.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                found: torch.Tensor = file.get_tensor(self.key)
        except (OSError, SafetensorError) as error:
            raise GraphError("a weight can no longer be read", where=str(self), why=str(error)) from error
        if (tuple(found.shape), found.dtype) != (self.shape, self.dtype):
            raise GraphError("a weight can no longer be read", where=str(self), why="the file has changed")
        yield found


class LazyTensor(torch.Tensor):
    """A tensor that is read when something computes with it, and only then.

    Args:
        source: where it is.
        kept: what is left of each of its dims.
    """

    source: Source
    kept: Kept

    @staticmethod
    def __new__(cls, source: Source, kept: Kept | None = None) -> LazyTensor:
        """A tensor of the CPU without memory of its own."""
        kept = kept or (None,) * len(source.shape)
        shape = [size if index is None else len(index) for size, index in zip(source.shape, kept, strict=True)]
        made: LazyTensor = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=source.dtype, device=torch.device("cpu")
        )
        made.source, made.kept = source, kept
        return made

    def read(self) -> torch.Tensor:
        """The tensor; mapped memory where all of it is left."""
        return self.rows(0, self.shape[0] if self.shape else 1)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Some of its rows; of a scalar the only entry."""
        with self.source.opened() as found:
            first, *others = self.kept or (None,)
            if first is not None:
                found = found.index_select(0, first[start:stop])
            elif found.dim():
                found = found[start:stop]
            for dim, index in enumerate(others, 1):
                found = found if index is None else found.index_select(dim, index)
            return found

    def blocks(self) -> Iterator[torch.Tensor]:
        """The tensor piece by piece along dim 0, each made from about ``BLOCK`` bytes or from one row."""
        row = math.prod(self.source.shape[1:]) * self.source.dtype.itemsize
        step, rows = max(1, BLOCK // max(1, row)), self.shape[0] if self.shape else 1
        for start in range(0, rows, step):
            yield self.rows(start, min(start + step, rows))

    def taken(self, dim: int, index: torch.Tensor) -> LazyTensor:
        """The tensor with some units of a dim alone; nothing is read."""
        dim = dim % len(self.kept)
        before = self.kept[dim]
        now = index.cpu() if before is None else before[index.cpu()]
        return LazyTensor(self.source, (*self.kept[:dim], now, *self.kept[dim + 1 :]))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override] # torch's stub has no name
        return f"LazyTensor({self.source}, shape={list(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: Any) -> LazyTensor:
        """Itself: nothing can change it."""
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer from what is known, note a slice, or read and compute."""
        kwargs = kwargs or {}
        if func in DESCRIBING:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func is torch.Tensor.detach:
            return LazyTensor(args[0].source, args[0].kept)
        if func is torch.Tensor.index_select and isinstance(args[0], LazyTensor):
            return args[0].taken(*args[1:], **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__set__" or (name.endswith("_") and not name.endswith("__") and isinstance(args[0], LazyTensor)):
            raise GraphError("a weight in a file cannot be changed in place", where=str(args[0]), why=f"{name} would")
        args, kwargs = pytree.tree_map_only(LazyTensor, LazyTensor.read, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # torch's own is a placeholder
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What reaches a kernel without having been asked above works on what is read, too."""
        args, kwargs = pytree.tree_map_only(LazyTensor, LazyTensor.read, (args, dict(kwargs or {})))
        return func(*args, **kwargs)


def is_lazy(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Are some of these in files?"""
    return any(isinstance(value, LazyTensor) for value in tensors.values())
