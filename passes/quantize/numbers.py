"""Numbers: the integers that stand for the real numbers of a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphc.ir.quantized import RANGES, pack_int4


@dataclass(frozen=True)
class Numbers:
    """``real = (integer - zero_point) * scale``; see ``graphc.ir.quantized``.

    Attributes:
        scale: float, no dims or such as broadcast against the tensor.
        zero_point: of the integer type, shaped like the scale.
        low, high: the integers that are used.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: int
    high: int

    @staticmethod
    def reach(least: float, greatest: float, dtype: torch.dtype, symmetric: bool) -> Numbers:
        """All integers of a type for the real numbers from ``least`` to ``greatest``, zero among them."""
        low, high = RANGES[dtype]
        least, greatest = min(least, 0.0), max(greatest, 0.0)
        if symmetric:
            middle = (low + high + 1) // 2
            scale = max(-least, greatest) / (high - middle)
            low = middle - (high - middle)
            zero = middle
        else:
            scale = (greatest - least) / (high - low)
            zero = round(low - least / scale) if scale else low
        scale = max(scale, torch.finfo(torch.float32).tiny)
        return Numbers(torch.tensor(scale), torch.tensor(min(max(zero, low), high), dtype=dtype), low, high)

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """The integers of a tensor."""
        found: torch.Tensor = torch.ops.graphc.quantize(x, self.scale, self.zero_point, self.low, self.high)
        return found

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """The real numbers that the integers of a tensor stand for."""
        found: torch.Tensor = torch.ops.graphc.fake_quantize(x, self.scale, self.zero_point, self.low, self.high)
        return found


@dataclass(frozen=True)
class Rounded:
    """A weight as integers.

    Attributes:
        integers: of the weight's shape; ``[out, blocks, block]`` where blocks have scales of their own.
        numbers: what they stand for.
        turned: is the weight the transposed of what the blocks join to, as ``[in, out]``?
        blocks: have blocks scales of their own?
    """

    integers: torch.Tensor
    numbers: Numbers
    turned: bool = False
    blocks: bool = False

    @property
    def packed(self) -> bool:
        """Are they four bits each, kept two in a byte?"""
        return self.integers.dtype == torch.uint8 and self.numbers.high <= 15

    def stored(self) -> torch.Tensor:
        """The integers as a program keeps them."""
        return (pack_int4(self.integers) if self.packed else self.integers).contiguous()

    def real(self) -> torch.Tensor:
        """The weight that they stand for, in its own shape."""
        found: torch.Tensor = torch.ops.graphc.dequantize(self.integers, self.numbers.scale, self.numbers.zero_point)
        if self.blocks:
            found = found.flatten(-2)
        return found.t().contiguous() if self.turned else found


Chosen = Mapping[str, Numbers | None]
"""Of each group of values its numbers; None where they are found anew each time it runs."""
