"""Calibration: the ranges of values on data, one observer for all values that share a scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from graphc.ir.edit import find
from graphc.ir.program import Program
from graphc.ir.watch import run_watched

from ..calibration import Calibration
from .numbers import Numbers
from .observers import Observer
from .placement import Point
from .target import Values


def calibrate(
    program: Program,
    points: Sequence[Point],
    calibration: Calibration,
    make: Callable[[str], Observer],
    values: Values,
) -> dict[str, Numbers]:
    """Numbers for each group of values, from one run over the data.

    Args:
        program: in real numbers.
        points: values that become integers.
        calibration: the data.
        make: an observer for a group of this name.
        values: the integers.

    Raises:
        GraphError: a value is constant, NaN or infinite; names the node.
    """
    observers = {point.group: make(point.group) for point in points}
    watches = {
        find(program.graph, point.node): partial(_see, observers[point.group]) for point in points if not point.moved
    }
    with torch.no_grad():
        for batch in calibration.batches(program, "calibration"):
            run_watched(program, watches, batch.args, batch.kwargs)
    return {
        group: Numbers.reach(*observer.range(), values.type, values.symmetric) for group, observer in observers.items()
    }


def _see(observer: Observer, args: Any, kwargs: Mapping[str, Any], value: torch.Tensor) -> None:
    observer.see(value)
