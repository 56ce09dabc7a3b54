"""Tensors that become one: what they are called, what they start as, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.ir.tying import resolve, tie

from .blocks import Block


@dataclass(frozen=True)
class Share:
    """Tensors that become one.

    Attributes:
        names: of the tensors, one of each layer; the first one's stays.
        turned: those that it stands for transposed.
        layers: the blocks that they are of, in the same order; none for named tensors.
    """

    names: tuple[str, ...]
    turned: frozenset[str] = frozenset()
    layers: tuple[Block, ...] = ()


def named(program: Program, names: Sequence[str], where: str) -> Share:
    """Tensors by any of their names.

    Raises:
        GraphError: one does not exist, one does not fit the first one, or they are one tensor already.
    """
    own = [resolve(program, name) for name in names]
    if len(set(own)) < 2:
        raise GraphError(f"{' and '.join(names)} are one tensor already", where=where)
    tensors = program.tensors()
    first = tensors[own[0]]
    turned = set()
    for name in own[1:]:
        other = tensors[name]
        what = f"cannot tie {name} to {own[0]}"
        if _kind(other) != _kind(first):
            raise GraphError(what, where=where, why=f"one is {_kind(other)}, the other {_kind(first)}")
        if other.shape != first.shape:
            if other.dim() != 2 or other.shape != first.t().shape:
                why = f"one is {list(other.shape)}, the other {list(first.shape)}"
                raise GraphError(what, where=where, why=why, hint="tie tensors of one shape")
            turned.add(name)
    return Share(tuple(own), frozenset(turned))


def of_layer(program: Program, share: Share, place: int) -> torch.Tensor:
    """A copy of the tensor of one of the layers."""
    tensors = program.tensors()
    return _as_first(tensors[share.names[place]].detach().clone(), tensors[share.names[0]])


def mean(program: Program, share: Share) -> torch.Tensor:
    """The mean of the tensors, each the way round that it is read."""
    tensors = program.tensors()
    own = [tensors[name].detach().double() for name in share.names]
    own = [value.t() if name in share.turned else value for name, value in zip(share.names, own, strict=True)]
    first = tensors[share.names[0]]
    return _as_first((sum(own[1:], own[0]) / len(own)).to(first.dtype), first)


def unite(program: Program, values: Mapping[Share, torch.Tensor]) -> Program:
    """Every reader of one of the tensors of a share reads the first one, which is of the given value then."""
    ties = {name: share.names[0] for share in values for name in share.names if name != share.names[0]}
    turned = {name for share in values for name in share.turned}
    return tie(program, ties, turned, {share.names[0]: value for share, value in values.items()})


def _as_first(value: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(value, first.requires_grad) if isinstance(first, torch.nn.Parameter) else value


def _kind(value: torch.Tensor) -> str:
    return f"a {'parameter' if isinstance(value, torch.nn.Parameter) else 'buffer'} of {value.dtype}"
