"""Shapes after a slice: what every value was, with other sizes.

A slice leaves the structure of a program as it is, and a redirect leaves out a part of it. So the sizes of
a value follow from those that it had and from one run of its op on tensors without data, at the sizes of the
example; symbols need not be worked out again, which is what takes time. Where the answer is not plain (a view
with gaps, a size that is a sum of symbols, an op without a kernel for such tensors, another rank or dtype
than before), the op is run on symbols, as after any other rewrite.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Node

from graphc.ir.shapes import ERRORS, Shapes, kind_of_tensor

Size = int | torch.SymInt


class Resizing(Shapes):
    """Shape propagation for a graph whose nodes have the values of before the slice."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.bare: dict[int, Any] = {}
        self.orders: dict[int, tuple[int, ...] | None] = {}
        self.scaled: dict[tuple[Any, int], Size | None] = {}

    def compute(self, node: Node) -> Any:
        """The value of a node, from what it was and the new sizes of its operands."""
        old = node.meta.get("val")
        new = self._resized(node, old) if self.sharing and old is not None else None
        return super().compute(node) if new is None else new

    def _resized(self, node: Node, old: Any) -> Any:
        try:
            args, kwargs = torch.fx.node.map_aggregate((node.args, node.kwargs), self._without_data)
            with torch.no_grad():
                result = node.target(*args, **kwargs)  # type: ignore[operator] # a function, as in every graph
        except (*ERRORS, NotImplementedError):
            return None  # torch says why when it is run on symbols
        return self._like(old, result)

    def _without_data(self, argument: Any) -> Any:
        """An argument for a run on the meta device at the sizes of the example."""
        if isinstance(argument, Node):
            return self._bare(self.values[argument])
        return torch.device("meta") if isinstance(argument, torch.device) else argument

    def _bare(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._bare, value))
        if isinstance(value, torch.SymInt):
            return _number(value)
        if not isinstance(value, torch.Tensor):
            return value
        found = self.bare.get(id(value))
        if found is None:
            sizes, strides = map(_number, value.shape), map(_number, value.stride())
            found = torch.empty_strided(tuple(sizes), tuple(strides), dtype=value.dtype, device="meta")
            self.bare[id(value)] = found
        return found

    def _like(self, old: Any, result: Any) -> Any:
        """A value of the old one's structure with the sizes of the result; None if that is not plain."""
        if isinstance(old, (list, tuple)):
            if not isinstance(result, (list, tuple)) or len(old) != len(result):
                return None
            parts = [self._like(*pair) for pair in zip(old, result, strict=True)]
            return None if any(part is None for part in parts) else type(old)(parts)
        if isinstance(old, torch.Tensor):
            return self._tensor_like(old, result) if isinstance(result, torch.Tensor) else None
        if isinstance(old, (int, torch.SymInt)) and isinstance(result, int) and not isinstance(old, bool):
            return self._size(old, result)
        return None

    def _tensor_like(self, old: torch.Tensor, result: torch.Tensor) -> torch.Tensor | None:
        if id(old) not in self.orders:
            self.orders[id(old)] = _order(old)
        order = self.orders[id(old)]
        if order is None or result.dtype != old.dtype or result.dim() != old.dim():
            return None
        sizes: list[Size] = []
        for was, now in zip(old.shape, result.shape, strict=True):
            size = self._size(was, now)
            if size is None:
                return None
            sizes.append(size)
        strides: list[Size] = [1] * len(sizes)
        for inner, outer in itertools.pairwise(order):
            strides[outer] = strides[inner] * sizes[inner]
        return self._make(sizes, strides, old)

    def _make(self, sizes: Sequence[Size], strides: Sequence[Size], old: torch.Tensor) -> torch.Tensor:
        key = kind_of_tensor(old, sizes, strides, 0)
        if key not in self.kinds:
            empty = torch.empty_strided(sizes, strides, dtype=old.dtype, device="meta")
            self.kinds[key] = FakeTensor(self.mode, empty, old.device)
        made: torch.Tensor = self.kinds[key]
        return made

    def _size(self, was: Size, now: int) -> Size | None:
        """A size that was this and is now another number at the example: a number, or as many times the symbols."""
        if isinstance(was, int):
            return now
        if _number(was) == now:
            return was
        key = was.node.expr, now
        if key not in self.scaled:
            self.scaled[key] = _times(was, now)
        return self.scaled[key]


def _number(size: Size) -> int:
    return size if isinstance(size, int) else int(size.node.hint)  # type: ignore[arg-type] # symbols of captures have one


def _times(size: torch.SymInt, now: int) -> Size | None:
    count, symbols = size.node.expr.as_coeff_Mul()
    scaled, left = divmod(int(count) * now, _number(size))
    env = size.node.shape_env
    if left or not count.is_Integer or symbols.is_Add or env is None:
        return None
    made: Size = env.create_symintnode(scaled * symbols, hint=now)
    return made


def _order(value: torch.Tensor) -> tuple[int, ...] | None:
    """The dims of a tensor from the innermost out; None if it has gaps or repeats, or a symbol may be 0 or 1."""
    sizes, strides = tuple(value.shape), tuple(value.stride())
    symbols: list[Any] = [s for s in (*sizes, *strides) if not isinstance(s, int)]
    if any(s.node.hint is None or s.node.hint < 2 for s in symbols) or value.storage_offset() != 0:
        return None
    shape, steps = tuple(map(_number, sizes)), tuple(map(_number, strides))
    order = tuple(sorted(range(len(shape)), key=lambda dim: (steps[dim], shape[dim] != 1, -dim)))
    expected = 1
    for dim in order:
        if steps[dim] != expected:
            return None
        expected *= shape[dim]
    return order
