"""Samples of pointwise ops: arguments as data."""

from __future__ import annotations

from typing import Any

import torch

from graphc.rules.pointwise import BROADCAST, FIRST, UNARY
from tests.rules.engine import B, I, T

X = T((3, 1, 5))
POSITIVE = T((3, 1, 5), low=0.1)
ROW = T((4, 5))

INTEGER = {"bitwise_not", "bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__"}
"""Ops on integers."""

FOLLOWING: dict[str, list[Any]] = {
    "alpha_dropout": [0.5, False],
    "clamp": [-0.5, 0.5],
    "clip": [-0.5, 0.5],
    "clamp_max": [0.5],
    "clamp_min": [-0.5],
    "dropout": [0.5, False],
    "feature_alpha_dropout": [0.5, False],
    "feature_dropout": [0.5, False],
    "full_like": [2.0],
    "threshold": [0.1, 0.0],
    "round.decimals": [],
    "to.device": [torch.device("cpu"), torch.float32],
    "to.dtype": [torch.float32],
    "_to_copy.default": [],
    "fill.Scalar": [2.0],
    "fill.Tensor": [T(())],
    "to.dtype_layout": [],
    "to.other": [I((2,), 2)],
    "type_as.default": [I((2,), 2)],
}
"""Arguments after the tensor."""

THREE: dict[str, list[Any]] = {
    "addcdiv.default": [X, ROW, T((4, 1), low=0.5)],
    "addcmul.default": [X, ROW, T((4, 1))],
    "clamp.Tensor": [X, ROW, T((4, 1), low=3)],
    "clip.Tensor": [X, ROW, T((4, 1), low=3)],
    "lerp.Tensor": [X, ROW, T((4, 1))],
    "lerp.Scalar": [X, ROW, 0.3],
    "masked_fill.Scalar": [T((3, 4, 5)), B((4, 5)), 2.0],
    "masked_fill.Tensor": [T((3, 4, 5)), B((4, 5)), T(())],
    "where.self": [B((4, 5)), X, T((5,))],
    "where.Scalar": [B((4, 5)), 1.0, 2.0],
    "where.ScalarOther": [B((4, 5)), X, 2.0],
    "where.ScalarSelf": [B((4, 5)), 1.0, X],
    "copy.default": [T((3, 4, 5)), ROW],
    "div.Tensor_mode": [X, T((4, 5), low=0.3)],
    "div.Scalar_mode": [X, 2.0],
    "divide.Tensor_mode": [X, T((4, 5), low=0.3)],
    "xlogy.Scalar_Other": [X, 2.0],
    "xlogy.Scalar_Self": [2.0, POSITIVE],
    "pow.Scalar": [2.0, X],
    "pow.Tensor_Scalar": [X, 2.0],
    "pow.Tensor_Tensor": [POSITIVE, ROW],
}
"""Arguments of ops that are not (tensor, tensor) or (tensor, number)."""

KWARGS: dict[str, dict[str, Any]] = {
    "div.Tensor_mode": {"rounding_mode": "floor"},
    "divide.Tensor_mode": {"rounding_mode": "trunc"},
    "round.decimals": {"decimals": 1},
    "div.Scalar_mode": {"rounding_mode": "floor"},
    "to.dtype_layout": {"dtype": torch.float32},
    "_to_copy.default": {"dtype": torch.float32},
}


def samples() -> dict[str, list[tuple[list[Any], dict[str, Any]]]]:
    """By op name, arguments and keyword arguments."""
    found: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {}
    for name in UNARY:
        first: Any = I((3, 1, 5), 7) if name in INTEGER else POSITIVE
        found[f"{name}.default"] = [([first, *FOLLOWING.get(name, [])], {})]
    for name in FIRST:
        found[name] = [([X, *FOLLOWING[name]], KWARGS.get(name, {}))]
    for name in BROADCAST:
        found[name] = [(THREE.get(name) or two(name), KWARGS.get(name, {}))]
    found["prelu.default"] = [([T((3, 4, 5)), T((4,))], {}), ([T((3, 4)), T((1,))], {})]
    found["native_dropout.default"] = [([X, 0.5, False], {})]
    return found


def two(name: str) -> list[Any]:
    """Two broadcasting tensors, or a tensor and a number."""
    packet, _, overload = name.partition(".")
    whole = packet in INTEGER
    first: Any = I((3, 1, 5), 7) if whole else POSITIVE
    if overload == "Scalar":
        return [first, 3 if whole else 0.7]
    return [first, I((4, 5), 6) if whole else T((4, 5), low=0.1)]
