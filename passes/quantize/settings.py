"""What quantising can be asked for, and what can be seen to be wrong before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.program import Program
from graphc.ir.quantized import is_quantised
from graphc.pipeline.base import Pass

from ..contractions import contractions
from ..drop import MaxDrop, allowed_drop
from ..options import DataName, Names, Samples
from .observers import METHODS
from .rounding import Method
from .target import HALVES, Rules, Scheme, Target, find_target
from .weights import check_finite


@dataclass(frozen=True, kw_only=True)
class Settings(Pass):
    """Options of ``quantize``."""

    scheme: Annotated[
        Scheme,
        Field(
            description="Bits of weights and values. W8A8 needs calibration data; W8A8-dynamic finds the range of "
            "values when it runs; A16 leaves values alone; float16 and bfloat16 make both half precision."
        ),
    ] = "W8A8"
    target: Annotated[
        str, Field(description="Runtime whose kernels are meant, by name or as a .yaml file; auto goes by the device.")
    ] = "auto"
    targets: Names = ()
    ignore: Names = ()
    calibration_data: DataName = "calibration"
    num_calibration_samples: Samples = None
    calibration_method: Annotated[str, Field(description=f"Finds ranges of values: {', '.join(sorted(METHODS))}.")] = (
        "minmax"
    )
    percentile: Annotated[float, Field(gt=0, le=100, description="For percentile: of the numbers that are held.")] = (
        99.99
    )
    group_size: Annotated[int | None, Field(ge=2, description="Inputs of a weight that share a scale.")] = None
    weight_method: Annotated[
        Method,
        Field(
            description="How weights are rounded: by themselves, with scales of least error, or each column with what "
            "makes good the errors of those before (gptq, needs calibration data)."
        ),
    ] = "round-to-nearest"
    embeddings: Annotated[bool, Field(description="Keep embedding tables in 8 bits too.")] = True
    smooth: Annotated[
        float | Literal["auto"],
        Field(description="Strength of SmoothQuant, 0 for none; auto takes what keeps the outputs best."),
    ] = "auto"
    equalize: Annotated[bool, Field(description="Bring units of adjacent layers to the same range first.")] = False
    bias_correction: Annotated[
        bool | None, Field(description="Take the mean error of rounding off biases; by default with W8A8.")
    ] = None
    min_sqnr_db: Annotated[
        float | None, Field(description="Leave what hurts most in real numbers until outputs are this near.")
    ] = None
    max_drop: MaxDrop = None

    def __post_init__(self) -> None:
        """Check the options, and that the target can run the scheme."""
        super().__post_init__()
        where = f"pass {self.title}"
        if self.calibration_method not in METHODS:
            hint = nearest(self.calibration_method, METHODS)
            raise RecipeError(f"no calibration method is called {self.calibration_method!r}", where=where, hint=hint)
        if self.smooth != "auto" and not 0 <= self.smooth <= 1:
            raise RecipeError("smooth is a strength from 0 to 1, or auto", where=where, why=f"it is {self.smooth}")
        if self.min_sqnr_db is not None and self.max_drop is not None:
            raise RecipeError("one guard at a time", where=where, hint="give min_sqnr_db or max_drop")
        allowed_drop(self.max_drop, 1.0, where)
        of_integers = self.equalize or self.bias_correction or self.weight_method != "round-to-nearest"
        if self.scheme in HALVES and of_integers:
            why = "equalize, bias_correction and weight_method are for integers"
            raise RecipeError(f"{self.scheme} has no such option", where=where, why=why, hint="leave it out")
        if self.target != "auto":
            self.rules(find_target(self.target))

    def rules(self, target: Target) -> Rules:
        """What the scheme means to a target.

        Raises:
            RecipeError: it cannot run it, or not in blocks of this size.
        """
        rules = target.rules(self.scheme)
        if self.group_size is not None and self.group_size not in rules.group_sizes:
            why = f"{target.name} takes {', '.join(map(str, rules.group_sizes)) or 'none'} with {self.scheme}"
            raise RecipeError(f"no kernel has blocks of {self.group_size}", where=f"pass {self.title}", why=why)
        return rules

    @property
    def _reads_data(self) -> bool:
        smoothed = self.scheme == "W8A8-dynamic" and self.smooth != 0
        guards = self.min_sqnr_db is not None or self.max_drop is not None
        by_inputs = self.weight_method == "gptq"
        return self.scheme == "W8A8" or smoothed or by_inputs or self.corrects_biases or guards

    @property
    def corrects_biases(self) -> bool:
        """Is the mean error of rounding taken off biases?"""
        return self.scheme == "W8A8" if self.bias_correction is None else self.bias_correction

    def needs_data(self) -> Mapping[str, str]:
        """Inputs to see values on."""
        return {self.calibration_data: "ranges of values are found on it"} if self._reads_data else {}

    def least_opset(self) -> int:
        """ONNX has blocks with a scale of their own, and four bits, since version 21."""
        return 21 if self.group_size is not None or self.scheme == "W4A16" else 0

    def requires(self, program: Program) -> None:
        """Real numbers, with products that a target can run as integers.

        Raises:
            GraphError: it is quantised already, or its weights are not finite.
        """
        if is_quantised(program):
            what = "the program is quantised already"
            raise GraphError(what, where=f"pass {self.title}", hint="quantise once, after everything else")
        weights = {p.weight for p in contractions(program)}
        check_finite(program, weights)
        tensors = program.tensors()
        if self.scheme in HALVES and not any(tensors[name].dtype == torch.float32 for name in weights):
            why = "no product of the program has a weight in float32"
            raise GraphError(f"there is nothing to make {self.scheme}", where=f"pass {self.title}", why=why)
