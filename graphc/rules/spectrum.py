"""Fourier transforms and complex numbers: each frequency depends on all positions, so those stay whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphc.rules.operation import Operation, Value
from graphc.rules.table import Flow, rule

aten = torch.ops.aten


def _transformed(default: Sequence[int] | None) -> Flow:
    """Along the dims of argument 2, by default all or some of the last."""

    def flow(op: Operation) -> Value:
        axes, sizes = list(op.tensor(0)), op.shape()
        given = op.arg(2, default)
        for dim in range(len(axes)) if given is None else [given] if isinstance(given, int) else given:
            axis = axes[dim]
            if axis is not None:
                axis.pin(f"frequencies found along it at {op.where()}")
            axes[dim] = op.fresh(sizes[dim], "frequencies")
        return tuple(axes)

    return flow


for _name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft"):
    rule(getattr(aten, f"fft_{_name}").default, _transformed([-1]))
for _name in ("fft2", "ifft2", "rfft2", "irfft2"):
    rule(getattr(aten, f"fft_{_name}").default, _transformed([-2, -1]))
for _name in ("fftn", "ifftn", "rfftn", "irfftn"):
    rule(getattr(aten, f"fft_{_name}").default, _transformed(None))
rule([aten.real.default, aten.imag.default], "... -> ...")
