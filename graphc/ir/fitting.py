"""Fitting: does a program give what a submodule gives?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphc.errors import GraphError
from graphc.ir.capture import first_line
from graphc.ir.program import Program
from graphc.ir.varying import Inputs, another_size


def check_fit(path: str, part: nn.Module, program: Program, tolerance: float | None = None) -> pytree.TreeSpec:
    """Run both at the program's example and at another size, and compare dtypes and shapes of the outputs.

    Args:
        path: what to call the submodule in errors.
        tolerance: compare values too; as a share of the largest magnitude of an output.

    Returns the structure of the submodule's outputs.

    Raises:
        GraphError: the program does not fit; says at what size, and in which output.
    """
    wanted: Any = None
    for args, kwargs in _sizes(path, part, program):
        sizes = [list(v.shape) for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
        what, where = "the program does not fit the part", f"{path}, given {', '.join(map(str, sizes))}"
        try:
            with torch.no_grad():
                wanted, given = part(*args, **kwargs), program(*args, **kwargs)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            hint = f"make the program by graphc.capture_part(model, {path!r}, ...)"
            raise GraphError(what, where=where, why=why, hint=hint) from error
        why = _difference(program, wanted, given, tolerance)
        if why:
            hint = "the model expects what the part gave: the same outputs, of the same dtypes and shapes"
            raise GraphError(what, where=where, why=why, hint=hint)
    return pytree.tree_structure(wanted)


def _sizes(path: str, part: nn.Module, program: Program) -> Iterator[Inputs]:
    yield program.example()
    if program.contract.dims():
        yield another_size(part, program.contract, path)


def _difference(program: Program, wanted: Any, given: Any, tolerance: float | None) -> str:
    """What differs between two results; empty if nothing does. Dicts of any class are alike."""
    if not _alike(wanted, given):
        return f"the part gives {pytree.tree_structure(wanted)}, the program {pytree.tree_structure(given)}"
    pairs = zip(program.contract.outputs, pytree.tree_leaves(wanted), pytree.tree_leaves(given), strict=True)
    for spec, a, b in pairs:
        kinds = [f"{v.dtype}{list(v.shape)}" if isinstance(v, torch.Tensor) else repr(v) for v in (a, b)]
        if kinds[0] != kinds[1]:
            return f"the output {spec.name!r} of the part is {kinds[0]}, of the program {kinds[1]}"
        if tolerance is not None and isinstance(a, torch.Tensor) and not _close(a, b, tolerance):
            return f"the output {spec.name!r} of the program has other values"
    return ""


def _alike(wanted: Any, given: Any) -> bool:
    """The same structure, or the same keys in the same order, as files that know no class keep them."""
    if pytree.tree_structure(wanted) == pytree.tree_structure(given):
        return True
    places = [[pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(v)[0]] for v in (wanted, given)]
    return places[0] == places[1]


def _close(wanted: torch.Tensor, given: torch.Tensor, tolerance: float) -> bool:
    finite = wanted[torch.isfinite(wanted)].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(wanted, given, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
