"""Every rule proves itself: what it claims of each axis is what the op does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphc.axes.axis import Axis
from graphc.rules import RULES, rule_of
from graphc.rules.table import Notation, line
from tests.rules import samples_compute, samples_pointwise, samples_recurrent, samples_shape
from tests.rules.engine import Trial

SAMPLES = {
    **samples_pointwise.samples(),
    **samples_shape.SAMPLES,
    **samples_compute.SAMPLES,
    **samples_recurrent.SAMPLES,
}

ALLOWED = {
    "free": {"exact", "contracted"},
    "mixed": {"exact", "contracted", "mixed"},
    "pinned": {"exact", "contracted", "mixed", "breaks"},
}
"""What an axis may turn out to be, by what the rule says of it."""

LIBRARIES = {"transformers": "transformers.integrations.moe"}
"""Modules that define ops of other libraries."""

ALIGNED = {"_grouped_mm.default"}
"""Ops that take only sizes which no cut of a sample leaves; ``tests/coupling/test_choice.py`` cuts them."""

RANDOM = {"rand_like.default", "randn_like.default", "rand.default", "randn.default"}
UNSET = {"empty_like.default", "empty.memory_format", "new_empty.default"}
"""Ops whose values mean nothing: only their shapes are compared."""

ZERO_IS_NOT_NOTHING = "exact only if what is removed is zero there, which an activation need not be"
CAREFUL = {
    "any.default": ZERO_IS_NOT_NOTHING,
    "any.dim": ZERO_IS_NOT_NOTHING,
    "any.dims": ZERO_IS_NOT_NOTHING,
    "all.default": "true of all and false of none are results of the sample",
    "all.dim": "true of all and false of none are results of the sample",
    "all.dims": "true of all and false of none are results of the sample",
    "min.default": "the least of the sample may stay",
    "amax.default": "the greatest of the sample may stay",
    "argmin.default": "positions are counted",
}
"""Ops whose rule claims less than a sample shows, and why."""


def overload(name: str) -> Any:
    """An op of aten, or one of a library by its whole name."""
    *library, packet, rest = name.split(".")
    for word in library:
        pytest.importorskip(LIBRARIES[word], reason=f"pip install {word}")
    return getattr(getattr(getattr(torch.ops, *library or ["aten"]), packet), rest)


def claimed(axis: Any) -> str:
    return "pinned" if axis.pinned else "mixed" if axis.mixed else "free"


def describe(op: Any) -> str:
    flow = rule_of(op)
    return flow.pattern.text if isinstance(flow, Notation) else getattr(flow, "__qualname__", repr(flow))


def test_every_rule_has_a_sample() -> None:
    ours = {str(op).removeprefix("aten.") for op in RULES if isinstance(op, str) or op.namespace == "aten"}
    assert ours - SAMPLES.keys() == ALIGNED


def found_wrong(name: str, trial: Trial) -> list[str]:
    """What the rule promises and the op does not do."""
    if not trial.shapes_fit():
        return [f"the result of {name} has not the sizes that the rule `{describe(trial.op)}` says"]
    seen = {axis: observed(name, trial, axis) for axis in trial.axes()}
    broken = [a for a, what in seen.items() if what not in ALLOWED[claimed(a)]]
    found = [complaint(name, trial, axis, seen[axis]) for axis in broken]
    free = [axis for axis in seen if claimed(axis) == "free"]
    if not found and free and name not in RANDOM | UNSET and not trial.exact_together(free):
        found.append(f"{name}: its free axes cannot be cut at once")
    return found


def found_careful(name: str, trial: Trial) -> list[str]:
    """What the op would allow and the rule does not."""
    seen = {axis: observed(name, trial, axis) for axis in trial.axes()}
    careful = [a for a, what in seen.items() if what in ("exact", "contracted") and claimed(a) != "free"]
    return [complaint(name, trial, axis, seen[axis]) for axis in careful]


def observed(name: str, trial: Trial, axis: Axis) -> str:
    if axis.pinned is not None and axis.pinned.startswith("the layers of"):
        return "breaks"  # torch does not check: a missing state ends the process
    seen = trial.observe(axis)
    if seen == "mixed" and name in samples_recurrent.SAMPLES and trial.enough(axis):
        return "contracted"
    return "exact" if seen == "mixed" and name in RANDOM | UNSET else seen


def complaint(name: str, trial: Trial, axis: Axis, seen: str) -> str:
    what = f"{name}{tuple(trial.node.args)}: the axis of size {axis.size} is {seen}"
    return f"{what}, the rule `{describe(trial.op)}` says {claimed(axis)} ({axis.pinned})"


def trials(name: str) -> list[Trial]:
    assert rule_of(overload(name)) is not None, f"{name} has a sample and no rule"
    return [Trial(overload(name), args, kwargs) for args, kwargs in SAMPLES[name]]


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_op_does_what_its_rule_claims(name: str) -> None:
    for trial in trials(name):
        assert found_wrong(name, trial) == []
        if name not in CAREFUL:
            assert found_careful(name, trial) == []


@pytest.mark.parametrize("name", sorted(CAREFUL))
def test_what_is_careful_has_to_be(name: str) -> None:
    assert any(found_careful(name, trial) for trial in trials(name)), "take it out of the table"


WRONG = {
    "sum.dim_IntList": "a b c -> a c",
    "softmax.int": "a b c -> a b c",
    "layer_norm.default": "... c, _, c, c -> ... c",
    "cumsum.default": "a b c -> a b c",
    "embedding.default": "v h, ... -> ... h",
    "mm.default": "m k, k n -> n m",
    "conv1d.default": "n i h, o i k, o -> n o [p]",
    "gather.default": "a v, _, a i -> a i",
    "transpose.int": "a b c -> a b c",
    "triu.default": "a b c -> a b c",
    "mean.dim": "a b c -> a c",
    "index_select.default": "a b, _, i -> i b",
    "view.default": "a [b] -> a [c] [d]",
}
"""Lines that an op does not obey."""


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_line_is_found_out(name: str) -> None:
    args, kwargs = SAMPLES[name][0]
    trial = Trial(overload(name), args, kwargs, line(WRONG[name]))
    assert found_wrong(name, trial) != []


def test_a_line_that_gives_too_little_is_found_out() -> None:
    args, kwargs = SAMPLES["linear.default"][0]
    trial = Trial(overload("linear.default"), args, kwargs, line("... [i], ~o i, o -> ... o"))
    assert len(found_careful("linear.default", trial)) == 2
