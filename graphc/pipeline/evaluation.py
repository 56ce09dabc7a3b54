"""Evaluation: the recipe's metric of programs, each taken once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from torch.fx import GraphModule

from graphc.ir.program import Program
from graphc.pipeline.metrics import Metric

DATA = "eval"
"""The data that metrics are taken on."""


class Evaluator:
    """Takes a metric on data; what is known of a program is not computed again.

    Args:
        metric: what to take.
        load: gives the batches.
        original: the program as captured.
    """

    def __init__(self, metric: Metric, load: Callable[[], Iterable[Any]], original: Program) -> None:
        self.metric = metric
        self.load = load
        self.original = original
        self.known: WeakKeyDictionary[GraphModule, float] = WeakKeyDictionary()

    def __call__(self, program: Program) -> float:
        """The metric of a program whose tensors are final.

        Raises:
            GraphError: the data does not fit, or the metric is not finite.
        """
        if program.module not in self.known:
            self.known[program.module] = self.fresh(program)
        return self.known[program.module]

    def fresh(self, program: Program) -> float:
        """The metric of a program whose tensors still change."""
        return self.metric(program, self.load())

    @property
    def baseline(self) -> float:
        """The metric of the program as captured."""
        return self(self.original)
