"""Is an artifact equal to its Program? Both are run at several sizes and compared output by output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphc.errors import EmitError
from graphc.ir.contract import TensorSpec
from graphc.ir.program import Program

Runner = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Runs an artifact on (args, kwargs); gives its outputs in any pytree, leaves in contract order."""

Tolerance = Callable[[tuple[Any, ...], dict[str, Any], Any], float]
"""The largest relative error that counts as equal, given (args, kwargs) and what the program gives for them."""

CHANGES: tuple[Callable[[int], int], ...] = (lambda n: max(n - 1, 1) if n != 1 else 2, lambda n: n + 1, lambda n: 2 * n)
"""Other sizes to try for the dynamic dims, until the program itself can run one."""


@dataclass(frozen=True)
class Equality:
    """How equal an artifact was found to be.

    Attributes:
        error: the largest relative error of an output, ``||artifact - program|| / ||program||``.
        sizes: the sizes of the dynamic dims that were run; one empty entry if there is none.
    """

    error: float
    sizes: tuple[Mapping[str, int], ...]


def compare(program: Program, run: Runner, tolerance: float | Tolerance, where: str) -> Equality:
    """Run both at the example size and with all dynamic dims changed.

    Args:
        tolerance: largest allowed relative error, or how to find it for a case; outputs of fewer bits
            get at least four of their own rounding steps.
        where: what to call the artifact in errors.

    Raises:
        EmitError: the artifact fails to run, or an output differs in number, dtype, shape, place
            of NaN or infinity, or by more than the tolerance; or the program itself runs at no
            other size.
    """
    dims = program.contract.dims()
    cases: list[tuple[dict[str, int], tuple[Any, ...], dict[str, Any], Any]] = []
    with torch.no_grad():
        args, kwargs = program.example()
        cases.append((dims, args, kwargs, program(*args, **kwargs)))
        if dims:
            cases.append(_another_size(program, dims))
        worst = max(_compare_case(program, run, tolerance, where, *case) for case in cases)
    return Equality(worst, tuple(sizes for sizes, *_ in cases))


def _another_size(
    program: Program, dims: Mapping[str, int]
) -> tuple[dict[str, int], tuple[Any, ...], dict[str, Any], Any]:
    failure: Exception | None = None
    for change in CHANGES:
        sizes = {name: change(size) for name, size in dims.items()}
        args, kwargs = program.contract.resized(**sizes)
        try:
            return sizes, args, kwargs, program(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError, AssertionError) as error:
            failure = error
    raise EmitError(
        "the program does not run at another size",
        where=f"dynamic dims {dict(dims)}",
        why=str(failure).splitlines()[0],
        hint="capture it again with `dynamic` naming only the dims that may really vary",
    ) from failure


def _compare_case(
    program: Program,
    run: Runner,
    tolerance: float | Tolerance,
    where: str,
    sizes: Mapping[str, int],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    expected: Any,
) -> float:
    at = f"{where} at {dict(sizes)}" if sizes else where
    try:
        found = run(args, kwargs)
    except Exception as error:  # every failure of a foreign runtime becomes one EmitError
        raise EmitError(
            "the artifact does not run",
            where=at,
            why=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            hint="the program itself ran; an op or a size is not what the format can express",
        ) from error
    allowed = tolerance(args, kwargs, expected) if callable(tolerance) else tolerance
    return difference(program.contract.outputs, expected, found, allowed, at)


def difference(specs: Sequence[TensorSpec], expected: Any, found: Any, tolerance: float, where: str) -> float:
    """The largest relative error between two results of one contract; outputs that are no tensor are left out.

    Raises:
        EmitError: they are not equal; names the first output that differs.
    """
    wanted = pytree.tree_leaves(expected)
    wanted = [(spec.name, value) for spec, value in zip(specs, wanted, strict=True) if isinstance(value, torch.Tensor)]
    given = [value for value in pytree.tree_leaves(found) if isinstance(value, torch.Tensor)]
    if len(wanted) != len(given):
        raise _unequal("all outputs", where, f"{len(wanted)} tensors by the program, {len(given)} by the artifact")
    return max((_error(name, a, b, tolerance, where) for (name, a), b in zip(wanted, given, strict=True)), default=0.0)


def relative_error(reference: Any, other: Any) -> float:
    """The largest relative error of the floating tensors of a result."""
    pairs = zip(pytree.tree_leaves(reference), pytree.tree_leaves(other), strict=True)
    real = [(a.double(), b.double()) for a, b in pairs if isinstance(a, torch.Tensor) and a.is_floating_point()]
    return max((float((a - b).norm() / a.norm().clamp(min=1e-30)) for a, b in real), default=0.0)


def _error(name: str, wanted: torch.Tensor, given: torch.Tensor, tolerance: float, where: str) -> float:
    if wanted.dtype != given.dtype or wanted.shape != given.shape:
        described = [f"{t.dtype}{list(t.shape)}" for t in (wanted, given)]
        raise _unequal(name, where, f"{described[0]} by the program, {described[1]} by the artifact")
    if wanted.dtype.is_floating_point:
        tolerance = max(tolerance, 4 * torch.finfo(wanted.dtype).eps)
    a, b = (t.detach().cpu() for t in (wanted, given))
    a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
    a, b = a.double(), b.double()
    finite = torch.isfinite(a)
    if not torch.equal(torch.nan_to_num(a, 0.0)[~finite], torch.nan_to_num(b, 0.0)[~finite]) or not torch.equal(
        torch.isnan(a), torch.isnan(b)
    ):
        raise _unequal(name, where, "NaN or infinity stand at different places")
    gap, scale = float((a - b)[finite].norm()), float(a[finite].norm())
    error = gap / scale if scale else gap
    if not error <= tolerance:
        raise _unequal(name, where, f"the relative error is {error:.3g}, allowed is {tolerance:.3g}")
    return error


def _unequal(name: str, where: str, why: str) -> EmitError:
    return EmitError(
        "the artifact is not equal to its program",
        where=f"output {name!r} of {where}",
        why=why,
        hint="nothing was written; graphc never leaves an artifact that it could not prove equal",
    )
