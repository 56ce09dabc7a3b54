"""What passes promise, computed again from the tensors of before and after alone: no axis, no rule, no mask of graphc.

A pruned tensor is found within the one before by its values, which are as good as unique; all other entries are set
to zero; and the program before, with these tensors, must compute what the one after does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphc.ir.edit import rebuild
from graphc.ir.inputs import inputs_of
from graphc.ir.program import Program
from graphc.measure.fidelity import shared_outputs

CUTS = ("prune-filters", "prune-heads", "prune-width")
SAME = ("select-outputs", "bind-input")
"""Passes after which all outputs that are left are what they were."""


def kept(before: Tensor, after: Tensor) -> list[Tensor] | None:
    """Which positions of each dim are left; None where values do not tell.

    Raises:
        AssertionError: an entry is not where the others of its row say.
    """
    if before.shape == after.shape:
        return [torch.arange(size) for size in before.shape] if torch.equal(before, after) else None
    values, counts = before.flatten().unique(return_counts=True)
    alone = values[counts == 1]
    at = {float(v): i for i, v in enumerate(before.flatten().tolist())}
    known = torch.isin(after, alone)
    found: list[Tensor] = []
    places = torch.tensor([at.get(float(v), -1) for v in after.flatten().tolist()]).view(after.shape)
    assert bool((places >= 0).all()), "a value is new"
    where = torch.unravel_index(places, before.shape)
    for dim in range(before.ndim):
        rows, sure = (x.movedim(dim, 0).reshape(after.shape[dim], -1) for x in (where[dim], known))
        if not bool(sure.any(1).all()):
            return None
        first = rows.gather(1, sure.int().argmax(1, keepdim=True))
        assert bool((~sure | (rows == first)).all()), "an entry is not in its row"
        found.append(first[:, 0])
    return found


def masked(before: Program, after: Program) -> Program | None:
    """The program before, with zeros for all that is gone; None where it cannot be told.

    Raises:
        AssertionError: a tensor is no part of the one of its name.
    """
    tensors, left = before.tensors(), after.tensors()
    made: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name not in left:
            return None
        places = kept(value.detach(), left[name].detach())
        if places is None:
            return None
        inside = torch.zeros_like(value.detach())
        grid = torch.meshgrid(*places, indexing="ij") if places else ()
        inside[grid] = value.detach()[grid]
        if name.endswith("running_var"):
            inside = value.detach().clone()
        own = isinstance(value, torch.nn.Parameter)
        made[name] = torch.nn.Parameter(inside, value.requires_grad) if own else inside
    return rebuild(before, tensors={name: value for name, value in made.items() if value.shape != left[name].shape})


def gap(before: Program, after: Program, sizes: Mapping[str, int]) -> float:
    """The largest relative difference of an output that both have, on the same inputs."""
    args, kwargs = after.contract.resized(**sizes) if sizes else after.example()
    whole = inputs_of(before.contract, after.contract, args, kwargs, {})
    with torch.no_grad():
        first, second = before(*whole[0], **whole[1]), after(*args, **kwargs)
    worst = 0.0
    for _, x, y in shared_outputs(before.contract, first, after.contract, second):
        assert x.shape == y.shape, f"{list(x.shape)} became {list(y.shape)}"
        if x.is_floating_point() and x.isfinite().all():
            scale = float(x.double().norm())
            difference = float((x.double() - y.double()).norm())
            worst = max(worst, difference / scale if scale else difference)
    return worst
