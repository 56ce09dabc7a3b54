"""The schemes float16 and bfloat16: half precision everywhere but where its range or its steps do not reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from graphc.errors import GraphError
from graphc.ir.graph import module_path
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.ir.watch import walk
from graphc.measure.fidelity import named_tensors

from ..contractions import contractions
from .cast import cast
from .fold import fold_batch_norms
from .target import HALVES

if TYPE_CHECKING:
    from .work import Work


def halved(work: Work) -> Program:
    """The program of a piece of work in half precision. Batch norms are folded first; products not chosen stay as is.

    Raises:
        GraphError: a weight is out of range, or a value is on the example inputs, or the guard does not hold.
    """
    work.introduce()
    program = fold_batch_norms(make_permanent(work.given))
    known = list(contractions(program))
    chosen = {product.node.name for product in work.chosen(known)}
    after = cast(program, HALVES[work.options.scheme], {p.node.name for p in known} - chosen)
    check_range(program, after)
    guard = work.guard()
    if guard is not None:
        found = guard.measure(after)
        work.says.append(f"{guard.what} asked for: {found:.4g} {guard.unit}")
        if not guard.holds(found):
            raise GraphError(
                f"{work.options.scheme} does not hold {guard.what}",
                where=f"pass {work.options.title}",
                why=f"it gives {found:.4g} {guard.unit}",
                hint="leave products in float32 with ignore, or take the other half precision",
            )
    return after


def check_range(before: Program, after: Program) -> None:
    """See that on the example inputs what was finite still is.

    Args:
        before: in float32.
        after: the same in half precision.

    Raises:
        GraphError: it is not; names the first value that left the range.
    """
    args, kwargs = before.example()
    if any(value.device.type == "meta" for value in before.tensors().values()):
        return
    with torch.no_grad():
        outputs = [dict(named_tensors(program(*args, **kwargs))) for program in (before, after)]
        if all(_finite(outputs[1][name]) or not _finite(value) for name, value in outputs[0].items()):
            return
        for name, path, dtype in _beyond(before, after):
            raise GraphError(
                f"a value is out of the range of {dtype}",
                where=f"{name} in {path or 'the root'}",
                why="on the example inputs it is finite in float32 and is not any more",
                hint="take bfloat16, which reaches as far as float32, or leave products around it alone with ignore",
            )


def _beyond(before: Program, after: Program) -> Iterator[tuple[str, str, str]]:
    """Name, module and type of values that are finite only before, in order."""
    args, kwargs = before.example()
    names = {node.name for node in before.graph.nodes}
    first = walk(before, args, kwargs)
    for seen in walk(after, args, kwargs):
        if seen.node.name not in names:
            continue
        other = next(first)
        while other.node.name != seen.node.name:
            other = next(first)
        if _finite(other.value) and not _finite(seen.value):
            yield seen.node.name, module_path(seen.node), str(seen.value.dtype).removeprefix("torch.")


def _finite(value: Any) -> bool:
    real = isinstance(value, torch.Tensor) and value.is_floating_point()
    return not real or bool(value.isfinite().all())
