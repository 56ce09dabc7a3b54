"""The tools that benchmarks.peers.int8 compares, with the modes that each offers: all write an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graphc.passes import Quantize

import graphc
from benchmarks.peers.int8_models import Feed, Subject

Arrays = Mapping[str, np.ndarray[Any, Any]]
PEERS = {"onnxruntime": "onnxruntime", "nncf": "nncf==3.4.0"}
"""Modules, and the packages that have them."""
GUARDED = "W8A8, guarded"
"""The mode in which the layers that hurt most stay in float32."""
PRODUCTS = ("MatMul", "Gemm")
"""Ops that hold a transformer's weights."""


@dataclass(frozen=True)
class Job:
    """What a tool gets.

    Attributes:
        subject: the model and the samples that calibrate.
        file: the model in float32 as ONNX.
        folder: for files in between.
    """

    subject: Subject
    file: Path
    folder: Path

    @cached_property
    def samples(self) -> list[Arrays]:
        """The samples that calibrate."""
        return [arrays(feed) for feed in self.subject.calibration]


@dataclass(frozen=True)
class Mode:
    """A way to quantise: ``write`` makes the file of a job at a path."""

    tool: str
    name: str
    write: Callable[[Job, Path], None]


def arrays(feed: Feed) -> Arrays:
    """Inputs as onnxruntime takes them."""
    return {name: value.numpy() for name, value in feed.items()}


def prepared(job: Job) -> Path:
    """onnxruntime's own preparation: shapes inferred, batch norms folded, and what else it optimises."""
    from onnxruntime.quantization import quant_pre_process

    path = job.folder / "prepared.onnx"
    if not path.exists():
        quant_pre_process(job.file, path, auto_merge=True)
    return path


def fused(job: Job) -> Path:
    """By onnxruntime's optimiser of transformers: attention, skipped layer norms and GELU as one node each."""
    from onnxruntime.transformers.optimizer import optimize_model

    path = job.folder / "fused.onnx"
    if not path.exists():
        kind = "vit" if job.subject.kind == "vit" else "bert"
        optimize_model(str(job.file), model_type=kind).save_model_to_file(str(path))
    return path


class _Reader:
    """Samples as onnxruntime asks for them."""

    def __init__(self, samples: Sequence[Arrays]) -> None:
        self.left: Iterator[Arrays] = iter(samples)

    def get_next(self) -> Arrays | None:
        """The next one; None after the last."""
        return next(self.left, None)


def static(
    job: Job,
    path: Path,
    *,
    values: str = "QUInt8",
    method: str = "MinMax",
    reduce_range: bool = False,
    form: str = "QDQ",
    ops: Sequence[str] | None = None,
    source: Callable[[Job], Path] = prepared,
) -> None:
    """onnxruntime's quantize_static: int8 weights, per channel."""
    from onnxruntime import quantization as ort

    ort.quantize_static(
        source(job),
        path,
        _Reader(job.samples),
        quant_format=ort.QuantFormat[form],
        op_types_to_quantize=ops,
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=ort.QuantType[values],
        weight_type=ort.QuantType.QInt8,
        calibrate_method=ort.CalibrationMethod[method],
    )


def dynamic(job: Job, path: Path, *, reduce_range: bool = False, source: Callable[[Job], Path] = prepared) -> None:
    """onnxruntime's quantize_dynamic: int8 weights, per channel."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source(job), path, per_channel=True, reduce_range=reduce_range)


def nncf(job: Job, path: Path, *, transformer: bool = False, per_tensor: bool = False, fast: bool = True) -> None:
    """NNCF's post-training quantisation of the prepared file.

    Args:
        job, path: see Mode.
        transformer: what NNCF calls the model's type, with its SmoothQuant.
        per_tensor: one range for each value, from its least to its greatest, and whole int8 weights, which
            onnxruntime's kernels like better than NNCF's own choice.
        fast: its fast bias correction; its accurate one otherwise.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it sends nothing
    import nncf as package
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )

    options: dict[str, Any] = {"model_type": package.ModelType.TRANSFORMER} if transformer else {}
    if per_tensor:
        options["preset"] = package.QuantizationPreset.MIXED
        options["advanced_parameters"] = AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.DISABLE,
            activations_quantization_params=QuantizationParameters(per_channel=False),
        )
    samples = package.Dataset(job.samples)
    model = onnx.load(prepared(job))
    onnx.save(
        package.quantize(model, samples, subset_size=len(job.samples), fast_bias_correction=fast, **options), path
    )


def graphc_file(job: Job, path: Path, *, optimize: str | None = None, **options: Any) -> None:
    """graphc's quantize with options of it, and an option of what writes the file."""
    quantize = Quantize(target="onnxruntime-cpu", **options)
    data = {"calibration": job.subject.calibration}
    graphc.emit(graphc.compile(job.subject.program, passes=[quantize], data=data).program, path, optimize=optimize)


def float_file(job: Job, path: Path) -> None:
    """graphc's file for onnxruntime without integers: what is due to the ops that it fuses alone."""
    graphc.emit(job.subject.program, path, optimize="onnxruntime")


def modes(kind: str, tools: Sequence[str], least: float | None = None) -> list[Mode]:
    """Those of some tools that make sense for a kind of model; the first of graphc is the one that claims are about.

    Args:
        kind: of the model.
        tools: that are wanted.
        least: dB on the calibration data that graphc's guard is to hold in a mode of its own.
    """
    every = list(OF_IMAGES if kind == "cnn" else OF_TRANSFORMERS)
    if least is not None:
        every.append(Mode("graphc", GUARDED, partial(OF_IMAGES[0].write, min_sqnr_db=least)))
    return [mode for mode in every if mode.tool in tools]


def _modes(**by_tool: Mapping[str, Callable[[Job, Path], None]]) -> list[Mode]:
    return [Mode(tool, name, write) for tool, named in by_tool.items() for name, write in named.items()]


OF_IMAGES = _modes(
    graphc={
        "W8A8": partial(graphc_file, scheme="W8A8", calibration_method="mse", weight_method="gptq"),
    },
    onnxruntime={
        "u8s8": static,
        "u8s8, 7-bit weights": partial(static, reduce_range=True),
        "s8s8": partial(static, values="QInt8"),
        "u8s8, percentile": partial(static, method="Percentile"),
        "u8s8, entropy": partial(static, method="Entropy"),
        "u8s8, QOperator": partial(static, form="QOperator"),
    },
    nncf={
        "default": nncf,
        "per tensor": partial(nncf, per_tensor=True),
        "per tensor, accurate bias correction": partial(nncf, per_tensor=True, fast=False),
    },
)
OF_TRANSFORMERS = _modes(
    graphc={
        "W8A8-dynamic, fused": partial(graphc_file, scheme="W8A8-dynamic", optimize="onnxruntime"),
        "W8A8, fused": partial(graphc_file, scheme="W8A8", optimize="onnxruntime"),
        "float32, fused": float_file,
    },
    onnxruntime={
        "dynamic": dynamic,
        "dynamic, 7-bit weights": partial(dynamic, reduce_range=True),
        "dynamic, fused": partial(dynamic, source=fused),
        "u8s8": static,
        "u8s8, products": partial(static, ops=PRODUCTS),
        "u8s8, products, percentile": partial(static, ops=PRODUCTS, method="Percentile"),
        "u8s8, products, fused": partial(static, ops=PRODUCTS, source=fused),
    },
    nncf={"default": nncf, "transformer": partial(nncf, transformer=True)},
)
