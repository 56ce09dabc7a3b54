"""Batches: what a data loader gives, as a program's inputs and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphc.errors import RecipeError
from graphc.ir.contract import Contract, TensorSpec
from graphc.ir.inputs import inputs_of
from graphc.ir.program import Program

LABELS = ("labels", "label", "targets", "target")
"""Names that labels have in a batch that is a mapping."""


@dataclass(frozen=True)
class Batch:
    """One batch as a program takes it.

    Attributes:
        args, kwargs: inputs, in the structure of the program's example inputs.
        labels: what the loader gives beside them; None if it gives none.
        size: samples in the batch: the size of dim 0 of the first input.
        contract: of the program that takes it.
        others: what it has for inputs that are constants in the program, and may not be in its teacher, by name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: Any
    size: int
    contract: Contract
    others: Mapping[str, Any] = field(default_factory=dict)

    def of(self, rows: Callable[[torch.Tensor], torch.Tensor], size: int) -> Batch:
        """The batch with some of its samples.

        Args:
            rows: takes them out of a tensor of all samples.
            size: how many.
        """

        def part(value: Any) -> Any:
            whole = isinstance(value, torch.Tensor) and value.dim() and len(value) == self.size
            return rows(value) if whole else value

        given = (self.args, dict(self.kwargs), self.labels, dict(self.others))
        args, kwargs, labels, others = pytree.tree_map(part, given)
        return Batch(args, kwargs, labels, size, self.contract, others)


def batches(program: Program, loader: Iterable[Any], samples: int | None = None) -> Iterator[Batch]:
    """The batches of a loader, on the program's device, until some number of samples is reached.

    A batch is ``(inputs, labels)``, or a mapping (a dict, a BatchEncoding) of inputs by name with the
    labels as ``labels``, or inputs without labels: one tensor, or two for a program that takes two.
    Inputs are a tensor, a sequence in the program's order, or a mapping by name.

    Args:
        program: what the batches go into.
        loader: any iterable.
        samples: stop after so many; the batch that reaches the number is cut. None takes all.

    Raises:
        RecipeError: a batch does not fit the program, says which input and why; or there is none.
    """
    device = next((value.device for value in program.tensors().values()), torch.device("cpu"))
    seen = 0
    for given in loader:
        batch = fed(program, given, device)
        if samples is not None and seen + batch.size > samples:
            batch = _first(batch, samples - seen)
        yield batch
        seen += batch.size
        if samples is not None and seen >= samples:
            return
    if not seen:
        raise RecipeError("the data is empty", where="data", hint="a loader must give at least one batch each time")


def _first(batch: Batch, count: int) -> Batch:
    """So many samples of a batch."""
    return batch.of(lambda value: value[:count], count)


def fed(program: Program, given: Any, device: torch.device | str = "cpu", labels: str | None = None) -> Batch:
    """One batch of a loader as inputs and labels; see ``batches``.

    Args:
        program: what the batch goes into.
        given: the batch.
        device: where its tensors go.
        labels: their name in a batch that is a mapping; None for the usual ones.

    Raises:
        RecipeError: it does not fit the program.
    """
    inputs, found = _apart(given, labels, len(program.contract.order()))
    leaves, tree = pytree.tree_flatten(program.example())
    specs = program.contract.inputs
    named = inputs if isinstance(inputs, Mapping) else _named(program, pytree.tree_leaves(inputs))
    missing = [s.name for s in specs if s.dtype is not None and s.name not in named]
    if missing:
        why = f"it has {', '.join(map(str, named)) or 'nothing'}"
        raise RecipeError(f"a batch has no input {missing[0]!r}", where="data", why=why)
    values = [_checked(s, named.get(s.name, leaf), device) for s, leaf in zip(specs, leaves, strict=True)]
    bound = [one.spec for one in program.contract.bound if one.spec.name in named]
    args, kwargs = pytree.tree_unflatten(values, tree)
    first = next((v for v in values if isinstance(v, torch.Tensor) and v.dim()), None)
    moved = pytree.tree_map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, found)
    others = {spec.name: _checked(spec, named[spec.name], device) for spec in bound}
    return Batch(args, kwargs, moved, 1 if first is None else len(first), program.contract, others)


def taken_by(program: Program, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a batch as another program takes them than the one that it is for: a teacher, the original.

    Where that program still has an input that is a constant in the other it gets what the data has, or the constant.
    """
    return inputs_of(program.contract, batch.contract, batch.args, batch.kwargs, batch.others)


def _named(program: Program, values: Sequence[Any]) -> dict[str, Any]:
    """Inputs without names by name: those of the program, or also those that are constants in it.

    Raises:
        RecipeError: there are more or fewer.
    """
    names, all_names = [s.name for s in program.contract.inputs], program.contract.order()
    for order in (names, all_names):
        if len(values) == len(order):
            return dict(zip(order, values, strict=True))
    why = f"it has {len(values)} and the program takes {', '.join(map(str, program.contract.inputs))}"
    raise RecipeError("a batch has another number of inputs", where="data", why=why)


def _apart(given: Any, name: str | None, inputs: int) -> tuple[Any, Any]:
    """Inputs and labels. Two tensors for a program of two inputs are its inputs, without labels."""
    if isinstance(given, Mapping):
        label = next((key for key in ([name] if name else LABELS) if key in given), None)
        if name and label is None:
            why = f"it has {', '.join(map(str, given)) or 'nothing'}"
            raise RecipeError(f"a batch has no labels called {name!r}", where="data", why=why)
        return {k: v for k, v in given.items() if k != label}, None if label is None else given[label]
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return (given, None) if inputs == 2 and isinstance(given[0], torch.Tensor) else (given[0], given[1])
    if isinstance(given, torch.Tensor) or (isinstance(given, (tuple, list)) and len(given) == 1):
        return given, None
    what = f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, (tuple, list)) else "")
    hint = "give (inputs, labels), a dict of inputs by name with `labels`, or one tensor"
    raise RecipeError(f"a batch cannot be {what}", where="data", hint=hint)


def _checked(spec: TensorSpec, value: Any, device: torch.device | str) -> Any:
    if spec.dtype is None:
        return value
    alike = isinstance(value, torch.Tensor) and value.dtype == spec.dtype and value.dim() == len(spec.shape)
    if not alike or not _sized(spec, value):
        tensor = isinstance(value, torch.Tensor)
        why = f"it is {value.dtype}{list(value.shape)}" if tensor else f"it is a {type(value).__name__}"
        hint = "give such batches, or capture with the dim dynamic that varies" if alike else ""
        raise RecipeError(f"a batch does not fit the input {spec}", where="data", why=why, hint=hint)
    return value.to(device)


def _sized(spec: TensorSpec, value: torch.Tensor) -> bool:
    """Is a value of the sizes that are fixed?"""
    return all(isinstance(want, str) or want == size for want, size in zip(spec.shape, value.shape, strict=True))
