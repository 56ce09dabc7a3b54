"""quantize: real numbers become integers, where and how a runtime is faster or a file smaller with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graphc.ir.kinds import kind
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass

from ..calibration import Calibration
from ..contractions import Contraction, contractions
from ..options import DataName, Names, Samples
from ..select import choose
from .calibrate import calibrate
from .fold import fold_batch_norms
from .insert import converted
from .numbers import Chosen
from .observers import METHODS, Observer
from .placement import place
from .target import Rules, Scheme, Target, find_target
from .weights import check_finite, layouts, round_to_nearest

Method = Annotated[str, Field(description=f"How ranges of values are found: {', '.join(sorted(METHODS))}.")]


@dataclass(frozen=True, kw_only=True)
class Quantize(Pass):
    type: ClassVar[str] = "quantize"
    scheme: Scheme = "W8A8"
    target: str = "onnxruntime-cpu"
    targets: Names = ()
    ignore: Names = ()
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    calibration_method: Method = "minmax"
    group_size: Annotated[int | None, Field(ge=2)] = None

    def run(self, program: Program, context: Context) -> Program:
        target = find_target(self.target)
        rules = target.rules(self.scheme)
        program = fold_batch_norms(make_permanent(program))
        products = [p for p in contractions(program) if kind(p.node) in rules.products]
        bits, _ = target.weight_bits(self.scheme)
        rounded = round_to_nearest(program, layouts(program, products, self.group_size), bits)
        points = place(program, rules, products) if self.scheme in ("W8A8", "W8A8-dynamic") else []
        chosen: Chosen = dict.fromkeys([p.group for p in points])
        if self.scheme == "W8A8":
            calibration = Calibration.of(context, self.calibration_data, self.num_calibration_samples)
            chosen = calibrate(program, points, calibration, self._observer, target.values)
        return converted(program, points, chosen, rounded, products)

    def _observer(self, name: str) -> Observer:
        return METHODS[self.calibration_method](name=name, levels=256, symmetric=False)
