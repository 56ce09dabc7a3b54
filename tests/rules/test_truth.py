"""Every rule proves itself: what it claims of each axis is what the op does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphc.rules import RULES
from graphc.rules.table import Notation
from tests.rules import samples_compute, samples_pointwise, samples_shape
from tests.rules.engine import Trial

SAMPLES = {**samples_pointwise.samples(), **samples_shape.SAMPLES, **samples_compute.SAMPLES}

RANDOM = {"rand_like.default", "randn_like.default", "rand.default", "randn.default"}
UNSET = {"empty_like.default", "empty.memory_format", "new_empty.default"}
"""Ops whose values mean nothing: only their shapes are compared."""

ZERO_IS_NOT_NOTHING = "exact only if what is removed is zero there, which an activation need not be"
KERNEL = "the padding pads what the kernel loses; elastic kernels are not for slicing"
CAREFUL = {
    "sum.dim_IntList": ZERO_IS_NOT_NOTHING,
    "sum.default": ZERO_IS_NOT_NOTHING,
    "nansum.default": ZERO_IS_NOT_NOTHING,
    "linalg_vector_norm.default": ZERO_IS_NOT_NOTHING,
    "norm.ScalarOpt_dim": ZERO_IS_NOT_NOTHING,
    "any.default": ZERO_IS_NOT_NOTHING,
    "any.dim": ZERO_IS_NOT_NOTHING,
    "any.dims": ZERO_IS_NOT_NOTHING,
    "all.default": "true of all and false of none are results of the sample",
    "all.dim": "true of all and false of none are results of the sample",
    "all.dims": "true of all and false of none are results of the sample",
    "max.default": "the greatest of the sample may stay",
    "min.default": "the least of the sample may stay",
    "scatter.src": "writes by index; every dim of data and index would have to be cut alike",
    "scatter.value": "writes by index; every dim of data and index would have to be cut alike",
    "scatter_add.default": "writes by index; every dim of data and index would have to be cut alike",
    "index_put.default": "writes by index; every dim of data and index would have to be cut alike",
    "gather.default": "dims of which only a part is read",
    "index.Tensor": "what a mask picks has no axis of its own",
    "roll.default": "without dims the tensor is rolled flat",
    "amax.default": "the greatest of the sample may stay",
    "amin.default": "the least of the sample may stay",
    "cumsum.default": ZERO_IS_NOT_NOTHING,
    "argmin.default": "positions are counted",
    "argmax.default": "positions are counted",
    "conv1d.padding": KERNEL,
    "conv2d.padding": KERNEL,
    "conv3d.padding": KERNEL,
    "adaptive_avg_pool1d.default": "spatial dims stay whole, as kernels do",
    "adaptive_avg_pool2d.default": "spatial dims stay whole, as kernels do",
    "adaptive_avg_pool3d.default": "spatial dims stay whole, as kernels do",
}
"""Ops whose rule claims less than a sample shows, and why."""


def overload(name: str) -> Any:
    packet, _, rest = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), rest)


def claimed(axis: Any) -> str:
    return "pinned" if axis.pinned else "mixed" if axis.mixed else "free"


def describe(op: Any) -> str:
    flow = RULES[op]
    return flow.pattern.text if isinstance(flow, Notation) else getattr(flow, "__qualname__", repr(flow))


def test_every_rule_has_a_sample() -> None:
    ours = {op for op in RULES if op.namespace == "aten"}
    assert {str(op) for op in ours - {overload(name) for name in SAMPLES}} == set()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_op_does_what_its_rule_claims(name: str) -> None:
    op = overload(name)
    assert op in RULES, f"{name} has a sample and no rule"
    for number, (args, kwargs) in enumerate(SAMPLES[name]):
        trial = Trial(op, args, kwargs)
        for axis in trial.axes():
            seen = trial.observe(axis)
            if name in RANDOM | UNSET and seen in ("contracted", "mixed"):
                seen = "exact"
            case = f"{name}, sample {number}: the axis of size {axis.size} is {seen}, the rule `{describe(op)}` says "
            case += f"{claimed(axis)} ({axis.pinned})"
            if claimed(axis) == "free":
                assert seen in ("exact", "contracted"), case
            elif claimed(axis) == "mixed":
                assert seen != "breaks", case
                assert seen == "mixed" or name in CAREFUL, case
            else:
                assert seen in ("mixed", "breaks") or name in CAREFUL, case
