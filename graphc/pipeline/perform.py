"""Performing passes: what they start from, and each of them alone, seeded and proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from graphc.errors import GraphError
from graphc.ir.digest import digest
from graphc.ir.lazy import is_lazy
from graphc.ir.program import Program
from graphc.ir.specs import check_specs
from graphc.ir.verify import verify
from graphc.pipeline.base import Context, Pass
from graphc.pipeline.evaluation import DATA, Evaluator
from graphc.pipeline.low_memory import check_passes
from graphc.pipeline.metrics import find_metric
from graphc.pipeline.plan import Plan
from graphc.pipeline.seeds import seed_all

if TYPE_CHECKING:
    from graphc.pipeline.cache import Cache
    from graphc.pipeline.store import Entry

Watch = Callable[[str, Any], None]
"""Told what happens: an event's name and what it is about."""


def begin(made: Plan, watch: Watch = lambda event, about: None) -> Context:
    """Seed what is random, and take the metric of the program as captured: what the passes of a plan start from."""
    torch.manual_seed(made.seed)
    if is_lazy(made.original.tensors()):
        check_passes(made.passes)
    _promised(made.passes, made.original)
    evaluator = _evaluator(made)
    watch("captured", made.original)
    if evaluator is not None:
        watch("evaluated", (evaluator.metric.name, evaluator.baseline))
    return Context(
        original=made.original,
        data=made.data,
        device=made.device,
        seed=made.seed,
        run_dir=made.output_dir,
        progress=lambda done, total, text: watch("progress", (done, total, text)),
        evaluator=evaluator,
        resume=made.resume,
    )


def perform(
    item: Pass,
    program: Program,
    context: Context,
    done: Sequence[str] = (),
    cache: Cache | None = None,
    watch: Watch = lambda event, about: None,
) -> tuple[Program, Entry | None]:
    """Run one pass, which draws the same whatever ran before it, or take its result from a cache.

    Raises:
        GraphError: as ``apply``.
    """
    seed_all(context.seed + int(digest(item.title)[:8], 16))
    make = partial(apply, item, program, done=done)
    return cache.through(item, program, context, make, watch) if cache else (make(context), None)


def apply(
    item: Pass, program: Program, context: Context, ready: Program | None = None, *, done: Sequence[str] = ()
) -> Program:
    """Run one pass and prove its result, or the result of an earlier run that was kept.

    Raises:
        GraphError: the pass refuses, or its result breaks the contract; says which passes ran before.
    """
    try:
        promised = item.promises(program.contract)
        item.requires(program)
        result = ready if ready is not None else item.run(program, context)
        verify(result)
        check_specs("input", promised.inputs, result.contract.inputs)
        check_specs("output", promised.outputs, result.contract.outputs)
        item.ensures(program, result)
    except GraphError as error:
        before = f" after {', '.join(done)}" if done else ""
        error.add_note(f"in pass {item.title}{before}")
        raise
    return dataclasses.replace(result, history=(*program.history, item.note()))


def _promised(passes: Sequence[Pass], original: Program) -> None:
    """See that each pass can make of inputs and outputs what it wants to, before any work.

    Raises:
        GraphError: a pass speaks of an input or output that there is not, or a value does not fit.
    """
    contract = original.contract
    for item in passes:
        try:
            contract = item.promises(contract)
        except GraphError as error:
            error.add_note(f"in pass {item.title}")
            raise


def _evaluator(made: Plan) -> Evaluator | None:
    """Of the recipe's metric; None if it has none."""
    if made.metric is None:
        return None
    return Evaluator(find_metric(made.metric, made.original), made.data[DATA], made.original)
