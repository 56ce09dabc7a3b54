"""Interpolation of times along the sizes of axes, with the steps that kernels take.

A kernel that computes so many channels at once takes as long for one channel as for all of them: a time is a sum
of products of sizes, each rounded up to such a step. Which steps, and how much of each product, follow from what was
measured; what the sum misses is taken from the nearest measurements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

STEPS = (1, 8, 16, 32)
"""Sizes may be rounded up to multiples of these."""
ALIGNED = 4
"""onnxruntime has other kernels for convolutions whose channels are no multiple of this."""
NEAREST = 4
SWEEPS, SETTLED = 500, 1e-7
Array = np.ndarray[Any, Any]


def kernel_class(family: str, sizes: Sequence[int]) -> tuple[bool, ...]:
    """Which kernel a family has at some sizes: times are compared within one class."""
    return tuple(size % ALIGNED == 0 for size in sizes) if family.startswith("conv") else ()


@dataclass(frozen=True)
class Curve:
    """Times at sizes, and in between.

    Attributes:
        sizes: at which it was measured, ``[samples, axes]``.
        times: milliseconds, ``[samples]``, all positive.
    """

    sizes: tuple[tuple[int, ...], ...]
    times: tuple[float, ...]

    def __call__(self, sizes: Sequence[int]) -> float:
        """Milliseconds at some sizes."""
        steps, weights = self._model
        guess = float(_products(np.array([sizes]), steps)[0] @ weights)
        return guess * self._correction(sizes)

    @cached_property
    def _points(self) -> Array:
        points: Array = np.array(self.sizes, dtype=float).reshape(len(self.times), -1)
        return points

    @cached_property
    def _model(self) -> tuple[tuple[int, ...], Array]:
        """The steps that fit best, and the share of each product."""
        axes = self._points.shape[1]
        few = list(itertools.product(STEPS, repeat=axes)) if axes <= 2 else [(step,) * axes for step in STEPS]
        fits = [(_fit(self._points, np.array(self.times), steps), steps) for steps in few]
        least = min(error for (error, _), _ in fits)
        # of those that fit about as well, the smallest steps: they claim least
        (_, weights), steps = min((f for f in fits if f[0][0] <= 1.1 * least + 1e-3), key=lambda f: math.prod(f[1]))
        return steps, weights

    @cached_property
    def _missed(self) -> Array:
        steps, weights = self._model
        missed: Array = np.array(self.times) / (_products(self._points, steps) @ weights)
        return missed

    def _correction(self, sizes: Sequence[int]) -> float:
        """What the sum misses near these sizes, as a factor."""
        steps, _ = self._model
        there, here = (np.log(_rounded(np.array(p, dtype=float), steps)) for p in (self._points, [list(sizes)]))
        distance = np.abs(there - here).sum(axis=1)
        nearest = np.argsort(distance, kind="stable")[:NEAREST]
        close = 1 / (distance[nearest] + 1e-3) ** 2
        return float((self._missed[nearest] * close).sum() / close.sum())


def _rounded(sizes: Array, steps: Sequence[int]) -> Array:
    by = np.array(steps, dtype=float)
    rounded: Array = np.ceil(sizes / by) * by
    return rounded


def _products(sizes: Array, steps: Sequence[int]) -> Array:
    """All products of at most two sizes, ``[samples, products]``; the first is 1."""
    rounded = _rounded(sizes, steps)
    axes = range(rounded.shape[1])
    columns = [np.ones(len(rounded)), *(rounded[:, i] for i in axes)]
    columns += [rounded[:, i] * rounded[:, j] for i, j in itertools.combinations_with_replacement(axes, 2)]
    if len(axes) > 2:
        columns.append(rounded.prod(axis=1))
    return np.stack(columns, axis=1)


def _fit(sizes: Array, times: Array, steps: Sequence[int]) -> tuple[float, Array]:
    """Shares of the products, none of them negative, with the least sum of squared relative errors."""
    rows = _products(sizes, steps) / times[:, None]
    scale = np.sqrt((rows**2).mean(axis=0))
    rows = rows / scale
    gram, wanted = rows.T @ rows + 1e-3 * np.eye(rows.shape[1]), rows.sum(axis=0)
    found = np.zeros(rows.shape[1])
    for _ in range(SWEEPS):
        before = found.copy()
        for i in range(len(found)):
            found[i] = max(0.0, found[i] + (wanted[i] - gram[i] @ found) / gram[i, i])
        if np.abs(found - before).max() < SETTLED:
            break
    error = math.sqrt(float(((rows @ found - 1) ** 2).mean()))
    return error, found / scale
