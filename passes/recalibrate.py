"""recalibrate: estimate the statistics of batch norms anew, on data without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch.fx import Node

from graphc.errors import GraphError
from graphc.ir.edit import STATISTICS, TRAINING_FLAG, replace
from graphc.ir.graph import copy_graph
from graphc.ir.program import Program
from graphc.ir.watch import run_watched
from graphc.pipeline.base import Context, Pass

from .calibration import Calibration
from .options import DataName, Samples

BATCH_NORM = torch.ops.aten.batch_norm.default


@dataclass(frozen=True, kw_only=True)
class Recalibrate(Pass):
    """Estimate running mean and variance of every batch norm anew, on calibration data (no labels).

    What is removed before a batch norm changes what enters it, and its statistics no longer fit: to
    put them right is often most of what fine-tuning gives, at the price of a forward pass (Li et al.
    2020, EagleEye; Yu and Huang 2019, Universally Slimmable Networks). Each norm uses the statistics
    of its batch meanwhile, as in training, so give batches of some size; mean and variance are those
    of all samples together, the variance with Bessel's correction.
    """

    type: ClassVar[str] = "recalibrate"
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None

    def needs_data(self) -> Mapping[str, str]:
        """Inputs to run the program on."""
        return {self.calibration_data: "statistics of batch norms are estimated on it"}

    def reduces(self) -> tuple[str, ...]:
        """Nothing: numbers change, and no sizes."""
        return ()

    def requires(self, program: Program) -> None:
        """There is a batch norm with statistics.

        Raises:
            GraphError: there is none.
        """
        if not _norms(program):
            why = "the program has no batch norm that keeps statistics"
            raise GraphError("recalibrate has nothing to do", where=f"pass {self.title}", why=why)

    def run(self, program: Program, context: Context) -> Program:
        """Run the data through once, with the norms in training."""
        calibration = Calibration.of(context, self.calibration_data, self.num_calibration_samples)
        training, meters = _in_training(program)
        watches = {node: partial(_see, moments) for node, moments in meters.items()}
        with torch.no_grad():
            for batch in calibration.batches(training, self.type):
                run_watched(training, watches, batch.args, batch.kwargs)
        found: dict[str, torch.Tensor] = {}
        tensors, names = program.tensors(), _norms(program)
        for node, moments in meters.items():
            for name, value in zip(names[node.name], moments.statistics(), strict=True):
                found[name] = value.to(tensors[name].device, tensors[name].dtype)
        return replace(program, copy_graph(program.graph), found)

    def ensures(self, before: Program, after: Program) -> None:
        """All statistics are finite, and no parameter changed."""
        first, last = before.tensors(), after.tensors()
        names = {name for pair in _norms(after).values() for name in pair}
        wrong = [name for name in names if not bool(torch.isfinite(last[name]).all())]
        if wrong:
            why = f"{wrong[0]} has values that are not: some layer overflows on the data"
            raise GraphError("the statistics are not finite", where=f"pass {self.title}", why=why)
        assert all(last[name] is first[name] for name in last if name not in names)


class _Moments:
    """Sums of a value and of its square for each channel (dim 1)."""

    def __init__(self) -> None:
        self.sum: torch.Tensor | float = 0.0
        self.square: torch.Tensor | float = 0.0
        self.count = 0

    def add(self, value: torch.Tensor) -> None:
        rows = value.detach().double().transpose(0, 1).flatten(1)
        self.sum, self.square = self.sum + rows.sum(1), self.square + rows.square().sum(1)
        self.count += rows.shape[1]

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.as_tensor(self.sum) / self.count
        variance = (torch.as_tensor(self.square) / self.count - mean.square()).clamp(min=0)
        return mean, variance * self.count / max(1, self.count - 1)


def _see(moments: _Moments, args: Any, kwargs: Any, value: Any) -> None:
    moments.add(args[0])


def _norms(program: Program) -> dict[str, tuple[str, str]]:
    """Nodes of batch norms with statistics by name, and the names of mean and variance."""
    found: dict[str, tuple[str, str]] = {}
    for node in program.graph.nodes:
        if node.target is BATCH_NORM:
            mean, variance = (node.args[i] for i in STATISTICS[BATCH_NORM])
            if isinstance(mean, Node) and isinstance(variance, Node):
                found[node.name] = str(mean.target), str(variance.target)
    return found


def _in_training(program: Program) -> tuple[Program, dict[Node, _Moments]]:
    """The program with batch norms that use the statistics of their batch and write none."""
    graph = copy_graph(program.graph)
    names = _norms(program)
    for node in graph.nodes:
        if node.name in names:
            for index in STATISTICS[BATCH_NORM]:
                node.update_arg(index, None)
            node.update_arg(TRAINING_FLAG[BATCH_NORM], True)
    training = replace(program, graph, {})
    moments = {pair: _Moments() for pair in names.values()}  # a norm that is used twice has one set of statistics
    return training, {node: moments[names[node.name]] for node in training.graph.nodes if node.name in names}
