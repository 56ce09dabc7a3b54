"""A seam: a value that may be divided by a factor for each unit, as tensors on all sides make up for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from graphc.errors import GraphError
from graphc.ir.edit import rebuild
from graphc.ir.program import Program


@dataclass(frozen=True, eq=False)
class End:
    """A tensor of the program that takes the factors of a seam.

    Attributes:
        tensor: its name.
        units: which factor each entry takes, in the tensor's rank, broadcasts to its shape; -1 for none.
        weight: is it the weight of a layer, not a bias, a gain or a table?
    """

    tensor: str
    units: torch.Tensor
    weight: bool

    def maxima(self, value: torch.Tensor, size: int) -> torch.Tensor:
        """The largest absolute entry of each unit, ``[size]``; 0 for a unit that has none."""
        shape = [1] * (value.dim() - self.units.dim()) + list(self.units.shape)
        over = [i for i in range(value.dim()) if shape[i] == 1 and value.shape[i] > 1]
        entries = value.detach().abs().amax(over, keepdim=True) if over else value.detach().abs()
        units = self.units.expand(entries.shape).flatten() + 1
        zero = entries.new_zeros(size + 1)
        return zero.scatter_reduce(0, units.to(zero.device), entries.flatten(), "amax")[1:]


@dataclass(frozen=True, eq=False)
class Seam:
    """Where a value may be divided by a positive factor for each unit of one of its dims.

    Attributes:
        value: name of the node.
        dim: of its value.
        size: how many units there are.
        units: for each the first unit that must have the same factor as it, ``[size]``.
        producers: tensors that are divided.
        consumers: tensors that are multiplied.
        values: names of all nodes that are divided, with it.
    """

    value: str
    dim: int
    size: int
    units: torch.Tensor
    producers: tuple[End, ...]
    consumers: tuple[End, ...]
    values: frozenset[str]

    def shared(self, values: torch.Tensor, reduce: str = "amax") -> torch.Tensor:
        """One value for all units that must have the same factor: the largest, or as ``reduce`` says; ``[size]``."""
        zero = values.new_zeros(self.size)
        units = self.units.to(values.device)
        return zero.scatter_reduce(0, units, values, reduce, include_self=False)[units]

    def weight_maxima(self, ends: Iterable[End], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """The largest absolute weight of each unit, ``[size]``, over some ends; None if none of these is a weight."""
        found = [end.maxima(tensors[end.tensor], self.size) for end in ends if end.weight]
        return self.shared(torch.stack(found).amax(0)) if found else None

    def apply(self, tensors: Mapping[str, torch.Tensor], factors: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors that change, by name: producers divided, consumers multiplied.

        Args:
            tensors: of the program.
            factors: positive, ``[size]``, the same for all units that must have the same.

        Raises:
            GraphError: they are not.
        """
        check_factors(factors, self.size, self.value)
        if not torch.equal(factors, factors[self.units]):
            unit = int((factors != factors[self.units]).nonzero()[0])
            why = f"units {int(self.units[unit])} and {unit} must have the same factor"
            raise GraphError(f"cannot rescale {self.value}", why=why)
        changed: dict[str, torch.Tensor] = {}
        for ends, power in ((self.producers, -1), (self.consumers, 1)):
            each = torch.cat([factors.double().pow(power), factors.new_ones(1, dtype=torch.float64)])
            for end in ends:
                old = changed.get(end.tensor, tensors[end.tensor])
                exact = torch.promote_types(old.dtype, torch.float32)
                changed[end.tensor] = replaced(old, old.detach() * each[end.units].to(old.device, exact))
        return changed


def rescale(program: Program, seam: Seam, factors: torch.Tensor, note: str | None = None) -> Program:
    """The same function, with the value of a seam divided by a factor for each unit.

    Args:
        program: that the seam was found in.
        seam: which tensors change.
        factors: positive, ``[seam.size]``, the same for all units that must have the same.
        note: what to add to the history.

    Raises:
        GraphError: the factors are not such.
    """
    return rebuild(program, tensors=seam.apply(program.tensors(), factors), note=note)


def check_factors(factors: torch.Tensor, size: int, value: str) -> None:
    """There is one factor for each unit, and each is positive.

    Raises:
        GraphError: this is not so.
    """
    what = f"cannot rescale {value}"
    if factors.shape != (size,):
        raise GraphError(what, why=f"it takes {size} factors, not a tensor of shape {list(factors.shape)}")
    if not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise GraphError(what, why="factors must be finite and larger than zero")


def replaced(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A new value in the dtype of the old one, a parameter if that is one."""
    new = new.to(old.dtype)
    return torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new
