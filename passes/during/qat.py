"""qat: quantisation-aware training; weights learn to do with the integers that they will be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graphc.ir.program import Program
from graphc.pipeline.base import Context

from ..options import DataName, Names, Samples
from ..quantize.learned import learnable, learned, scales
from ..quantize.quantize import Quantize
from ..quantize.work import Work
from .hook import Hook


@dataclass(frozen=True, kw_only=True)
class Qat(Hook):
    """Training with every rounding of 8-bit quantisation in it (Jacob et al. 2018), scales learned (Esser et al. 2020).

    Batch norms are folded and ranges calibrated at the beginning, as ``quantize`` does it; the gradient passes
    roundings as if they were not there. Masks stay, and zero stays zero. What comes out has integers, as after
    ``quantize``: emit it, and quantise no more.
    """

    type: ClassVar[str] = "qat"
    final: ClassVar[bool] = True
    scheme: Annotated[Literal["W8A8"], Field(description="Bits of weights and values.")] = "W8A8"
    target: Annotated[str, Field(description="Runtime whose kernels are meant; auto goes by the device.")] = "auto"
    targets: Names = ()
    ignore: Names = ()
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    calibration_method: Annotated[str, Field(description="How ranges of values are found at the beginning.")] = "minmax"
    learn_scales: Annotated[bool, Field(description="Train scales too, not weights alone.")] = True

    def quantize(self) -> Quantize:
        """The pass whose numbers the training begins with."""
        return Quantize(
            scheme=self.scheme,
            target=self.target,
            targets=self.targets,
            ignore=self.ignore,
            calibration_data=self.calibration_data,
            num_calibration_samples=self.num_calibration_samples,
            calibration_method=self.calibration_method,
            smooth=0,
        )

    def __post_init__(self) -> None:
        """Check the options, as ``quantize`` does."""
        super().__post_init__()
        self.quantize()

    def prepare(self, program: Program, context: Context) -> Program:
        """The program with roundings in it."""
        options = self.quantize()
        options.requires(program)
        return learnable(Work(options, context, program).begin())

    def frozen(self, program: Program) -> frozenset[str]:
        """Scales that are not learned."""
        return frozenset() if self.learn_scales else frozenset(scales(program))

    def finish(self, program: Program) -> Program:
        """The program with integers."""
        return learned(program)
