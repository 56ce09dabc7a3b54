"""When two results count as equal."""

from __future__ import annotations

import pytest
import torch

from graphc.emitters.equality import difference
from graphc.errors import EmitError
from graphc.ir.contract import TensorSpec

NAN, INF = float("nan"), float("inf")
SPECS = (TensorSpec("y", torch.float32, (3,)),)


def values(*numbers: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (values(1, 2, 3), values(1, 2, 3.0001)),
        (values(NAN, INF, -INF), values(NAN, INF, -INF)),
        (values(NAN, 2, 3), values(NAN, 2, 3)),
        (values(0, 0, 0), values(0, 0, 0)),
        (values(), values()),
        (values(1, 2, 3, dtype=torch.bfloat16), values(1, 2, 3.015625, dtype=torch.bfloat16)),
        (torch.tensor([1 + 2j]), torch.tensor([1 + 2j])),
        (torch.tensor([True, False]), torch.tensor([True, False])),
    ],
)
def test_equal(wanted: torch.Tensor, given: torch.Tensor) -> None:
    assert difference(SPECS, wanted, [given], 1e-4, "x") < 0.01


@pytest.mark.parametrize(
    ("wanted", "given", "why"),
    [
        (values(1, 2, 3), values(1, 2, 3.01), "relative error"),
        (values(1, 2, 3), values(1, 2, NAN), "NaN or infinity"),
        (values(1, 2, NAN), values(1, 2, 3), "NaN or infinity"),
        (values(1, 2, INF), values(1, 2, -INF), "NaN or infinity"),
        (values(0, 0, 0), values(0, 0, 1), "relative error"),
        (values(1, 2, 3), values(1, 2, 3, dtype=torch.float64), r"torch\.float64\[3\] by the artifact"),
        (values(1, 2, 3), values(1, 2), r"\[2\] by the artifact"),
        (torch.tensor([3, 5]), torch.tensor([3, 6]), "relative error"),
    ],
)
def test_not_equal(wanted: torch.Tensor, given: torch.Tensor, why: str) -> None:
    with pytest.raises(EmitError, match=why):
        difference(SPECS, wanted, given, 1e-4, "x")


def test_number_of_outputs() -> None:
    with pytest.raises(EmitError, match="1 tensors by the program, 2 by the artifact"):
        difference(SPECS, values(1), (values(1), values(1)), 1e-4, "x")
