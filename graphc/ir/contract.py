"""Contract: what goes into a Program and comes out of it; a pass that changes it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphc.errors import GraphError, nearest


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: a name, a dtype (None if it is no tensor) and a shape.

    A dim is a number, or the name of a dynamic dim (an expression of names in outputs).
    """

    name: str
    dtype: torch.dtype | None
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.") if self.dtype is not None else "constant"
        return f"{self.name}: {kind}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Bound:
    """An input that has become a constant.

    Attributes:
        spec: of the input.
        place: where it was among the inputs.
        value: of as many dims; 1 where the input is dynamic.
    """

    spec: TensorSpec
    place: int
    value: torch.Tensor


@dataclass(frozen=True)
class Contract:
    """What a Program promises its callers. A pass changes it only if it says so (``Pass.promises``).

    Attributes:
        inputs, outputs: flat specs, in the order of the pytree.
        args, kwargs: the example inputs it was captured with.
        dynamic: ``dynamic_shapes`` for torch.export, with names in place of Dim objects.
        bound: inputs that it had and that are constants now, in the order in which they were bound.
        dropped: outputs that it had, and has no longer.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dynamic: Mapping[str, Any]
    bound: tuple[Bound, ...] = ()
    dropped: tuple[TensorSpec, ...] = ()

    def order(self) -> list[str]:
        """Names of the inputs, and of those that are constants now, in the order in which data gives them."""
        names = [spec.name for spec in self.inputs]
        for one in reversed(self.bound):
            names.insert(one.place, one.spec.name)
        return names

    def dims(self) -> dict[str, int]:
        """Names of the dynamic dims and their sizes in the example."""
        leaves = torch.utils._pytree.tree_leaves((self.args, dict(self.kwargs)))
        found: dict[str, int] = {}
        for spec, value in zip(self.inputs, leaves, strict=True):
            for i, dim in enumerate(spec.shape):
                if isinstance(dim, str):
                    found.setdefault(dim, int(value.shape[i]))
        return found

    def resized(self, **sizes: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Example inputs with dynamic dims of other sizes, by repeating or cutting the examples.

        Raises:
            GraphError: a name is not a dynamic dim of this program.
        """
        known = self.dims()
        for name in sizes:
            if name not in known:
                raise GraphError(f"no dynamic dim is called {name!r}", hint=nearest(name, known))
        leaves, tree = torch.utils._pytree.tree_flatten((self.args, dict(self.kwargs)))
        resized = []
        for spec, value in zip(self.inputs, leaves, strict=True):
            for i, dim in enumerate(spec.shape):
                if isinstance(dim, str) and dim in sizes:
                    index = torch.arange(sizes[dim], device=value.device) % value.shape[i]
                    value = value.index_select(i, index)
            resized.append(value)
        args, kwargs = torch.utils._pytree.tree_unflatten(resized, tree)
        return args, kwargs
