"""Varying: which dims of a submodule's inputs may have other sizes, seen by running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphc.errors import CaptureError
from graphc.ir.capture import Dynamic, bind, first_line
from graphc.ir.contract import Contract, TensorSpec

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Names = Mapping[int, str]

GROWTHS: tuple[Callable[[int], int], ...] = (lambda n: n + 1, lambda n: 2 * n)
"""Other sizes to try: an odd step, and one that keeps multiples."""


DISTINCT = 3
"""What a varying dim of size 1 becomes in the example: torch.export takes a 1 for a constant here and there."""


def varying(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Dynamic, Inputs]:
    """The most dims of a submodule's inputs at other sizes of which it runs, named, as ``capture`` takes them.

    ``batch`` is dim 0 of all tensors that agree on it with the first one. ``height`` and ``width``
    are dims 2 and 3 of four-dimensional tensors, numbered where there are several such tensors.

    Returns the dims, and the inputs with those of size 1 enlarged.
    """
    leaves, tree = pytree.tree_flatten((args, kwargs))
    batch, images = _batch(leaves), _images(leaves)
    both = [first | second for first, second in zip(batch, images, strict=True)]
    for names in (both, batch):
        contract = _contract(leaves, names, args, kwargs)
        try:
            another_size(part, contract)
        except CaptureError:
            continue
        given, named = pytree.tree_unflatten(names, tree)
        ones = {name: DISTINCT for name, size in contract.dims().items() if size == 1}
        return bind(part, given, named), contract.resized(**ones)
    return {}, (args, kwargs)


def another_size(part: nn.Module, contract: Contract, path: str = "") -> Inputs:
    """Inputs that a submodule takes and in which all dynamic dims are larger than in the example.

    Raises:
        CaptureError: it takes none of those that were tried.
    """
    failure: Exception | None = None
    for growth in GROWTHS:
        args, kwargs = contract.resized(**{name: growth(size) for name, size in contract.dims().items()})
        try:
            with torch.no_grad():
                part(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it raises says that it does not take these sizes
            failure = error
        else:
            return args, kwargs
    raise CaptureError(
        "the submodule runs at no other size",
        where=f"{path or type(part).__name__}, dynamic dims {contract.dims()}",
        why=f"{type(failure).__name__}: {first_line(failure)}" if failure else "",
        hint="name only the dims in `dynamic` that may really vary",
    ) from failure


def _batch(leaves: Sequence[Any]) -> list[dict[int, str]]:
    sizes = [leaf.shape[0] if isinstance(leaf, torch.Tensor) and leaf.dim() else None for leaf in leaves]
    first = next((size for size in sizes if size is not None), None)
    return [{0: "batch"} if size is not None and size == first else {} for size in sizes]


def _images(leaves: Sequence[Any]) -> list[dict[int, str]]:
    """Height and width of images and feature maps, ``[batch, channels, height, width]``."""
    found = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.dim() == 4]
    ends = {i: f"_{count}" if len(found) > 1 else "" for count, i in enumerate(found)}
    return [{2: f"height{ends[i]}", 3: f"width{ends[i]}"} if i in ends else {} for i in range(len(leaves))]


def _contract(leaves: Sequence[Any], names: Sequence[Names], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Contract:
    """The inputs of a contract that is not captured yet."""
    specs = [
        TensorSpec("", leaf.dtype, tuple(dims.get(i, size) for i, size in enumerate(leaf.shape)))
        if isinstance(leaf, torch.Tensor)
        else TensorSpec("", None, ())
        for leaf, dims in zip(leaves, names, strict=True)
    ]
    return Contract(tuple(specs), (), args, kwargs, {})
