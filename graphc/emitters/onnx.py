"""The ONNX emitter: written by torch.onnx, checked by onnx, run by onnxruntime."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import onnx_ir
import torch
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram
from torch.utils import _pytree as pytree

from graphc.emitters import folding, fusions, quantized
from graphc.emitters.base import Emitter
from graphc.emitters.equality import Runner, Tolerance, relative_error
from graphc.emitters.exporting import export, with_plain_outputs
from graphc.emitters.halves import in_float32
from graphc.emitters.record import version
from graphc.emitters.translations import say_otherwise, translations
from graphc.errors import EmitError
from graphc.ir.contract import TensorSpec
from graphc.ir.program import Program

OPSETS = range(18, onnx.defs.onnx_opset_version() + 1)
TWO_GB = 2 * 10**9
SOURCES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")
"""What torch.onnx notes of each op for its own developers."""
FUSIONS = "graphc_fusions"
"""The key of a file's metadata that tells how many ops are fused."""


@dataclass(frozen=True, kw_only=True)
class OnnxEmitter(Emitter):
    """Writes ``.onnx`` files whose inputs, outputs and dynamic dims have the contract's names.

    Attributes:
        opset_version: operator set of the file; None is torch.onnx's own choice.
        optimize: the runtime whose own fused ops are written where they are faster: ``onnxruntime``.
        external_data: put the weights into ``<name>.onnx.data``; None does so above ``threshold``.
        threshold: bytes of weights that one file may hold (a protobuf cannot pass 2 GB).
    """

    suffix: ClassVar[str] = ".onnx"
    opset_version: int | None = None
    optimize: str | None = None
    external_data: bool | None = None
    threshold: int = TWO_GB

    def __post_init__(self) -> None:
        if self.opset_version is not None and self.opset_version not in OPSETS:
            raise EmitError(
                f"opset_version {self.opset_version!r} cannot be written",
                where="opset_version",
                hint=f"give a number from {OPSETS[0]} to {OPSETS[-1]}, or nothing",
            )
        if self.optimize is not None:
            fusions.check(self.optimize, self.opset_version)

    def write(self, program: Program, path: Path) -> None:
        """Translate the program to ONNX and save it, with its weights beside it if they are many.

        Raises:
            EmitError: an op has no translation (named), or the file does not pass onnx.checker.
        """
        module = with_plain_outputs(fusions.restate(program) if self.optimize else program)
        say_otherwise(module.graph)
        quantized.as_linear(module)
        module.recompile()
        exported = export(module, program.contract)
        translated = _translate(exported, self._opset(program, path.name), path.name)
        quantized.in_four_bits(translated)
        _forget_sources(translated)
        fusions.repeat_angles(translated.model)
        if self.optimize:
            translated.model.metadata_props[FUSIONS] = json.dumps(fusions.finish(translated.model))
        _name(translated, program)
        values = [value.const_value for value in translated.model.graph.initializers.values()]
        weights = sum(value.nbytes for value in values if value is not None)
        outside = self.external_data if self.external_data is not None else weights > self.threshold
        translated.save(str(path), external_data=outside)
        _check(path, self.opset_version)

    def _opset(self, program: Program, where: str) -> int | None:
        """The operator set that was asked for, or the least that the program's numbers need."""
        least = max(quantized.least_opset(program), fusions.OPSET if self.optimize else 0)
        if self.opset_version is not None and self.opset_version < least:
            why = "weights in four bits or with a scale a block came with it"
            hint = "give a higher opset_version, or none"
            raise EmitError(f"the program needs opset_version {least}", where=where, why=why, hint=hint)
        return self.opset_version or least or None

    def facts(self, path: Path) -> dict[str, Any]:
        """How many ops of each kind are fused, where that was asked for."""
        if not self.optimize:
            return {}
        properties = onnx.load(str(path), load_external_data=False).metadata_props
        return {"fusions": json.loads(next(entry.value for entry in properties if entry.key == FUSIONS))}

    def allowed(self, program: Program) -> float | Tolerance:
        """Where values are rounded, no more than twice what the rounding moves the outputs.

        Another order of sums rounds a few numbers to their other neighbour, which moves later ones: so that two
        runtimes may be as far apart as both are from the truth. In half precision it is the same.
        """
        plain = quantized.unrounded(program)
        exact = in_float32(plain or program) or plain
        if exact is None:
            return self.tolerance
        return lambda args, kwargs, given: max(self.tolerance, 2 * relative_error(exact(*args, **kwargs), given))

    def open(self, program: Program, path: Path) -> Runner:
        """An onnxruntime session on the CPU, computing in 32 bits where weights alone are integers."""
        import onnxruntime  # noqa: PLC0415 - half a second that only a check needs

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]

        def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
            leaves = dict(
                zip((s.name for s in program.contract.inputs), pytree.tree_leaves((args, kwargs)), strict=True)
            )
            feed = {name: leaves[name].detach().cpu().numpy() for name in names}
            return [torch.from_numpy(value) for value in session.run(None, feed)]

        return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress and no advice from the libraries that translate; errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _translate(exported: ExportedProgram, opset_version: int | None, where: str) -> ONNXProgram:
    try:
        with _quiet(), torch.no_grad():  # with gradients attention is taken apart in another way than it was traced
            translated = torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=opset_version,
                custom_translation_table=translations(exported),
                optimize=False,
                verbose=False,
            )
            assert translated is not None
            folding.optimize(translated.model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise EmitError(
            "the program cannot be translated to ONNX",
            where=where,
            why=_reason(error),
            hint="rewrite the op in the model, write another opset_version, or emit a .pt2 file",
        ) from error
    return translated


def _reason(error: BaseException) -> str:
    """The innermost message that names the op: torch.onnx wraps it in several others."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    naming = [e for e in chain if "node" in str(e) or "aten" in str(e) or "No ONNX function" in str(e)]
    told = (naming or chain)[-1]
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    best = next((line for line in lines if "No ONNX function" in line or "aten" in line), lines[0] if lines else "")
    return f"{type(told).__name__}: {best}"


def _name(translated: ONNXProgram, program: Program) -> None:
    """The contract's names on inputs, outputs and dims; where it comes from in the metadata."""
    graph = translated.model.graph
    tensors = [s for s in program.contract.inputs if s.dtype is not None]
    outputs = [s for s in program.contract.outputs if s.dtype is not None]
    if len(graph.inputs) != len(tensors) or len(graph.outputs) != len(outputs):
        raise EmitError(
            "the ONNX file would not have the program's inputs and outputs",
            why=f"{len(tensors)} and {len(outputs)} tensors in the program, "
            f"{len(graph.inputs)} and {len(graph.outputs)} in the file",
            hint="leave out outputs that are not tensors or are given twice",
        )
    _own_values(translated)
    _make_room({s.name for s in (*tensors, *outputs)}, translated)
    for value, spec in zip((*graph.inputs, *graph.outputs), (*tensors, *outputs), strict=True):
        value.name = spec.name
    _name_dims(translated, tensors)
    translated.model.producer_name, translated.model.producer_version = "graphc", version()
    translated.model.metadata_props.update(
        {
            "graphc_version": version(),
            "graphc_history": json.dumps(list(program.history)),
            "graphc_inputs": json.dumps({s.name: list(s.shape) for s in tensors}),
            "graphc_outputs": json.dumps({s.name: list(s.shape) for s in outputs}),
        }
    )


def _forget_sources(translated: ONNXProgram) -> None:
    """Leave out where in the user's files each op was written: they are not there where the file is used."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(translated.model.graph):
        for key in SOURCES:
            node.metadata_props.pop(key, None)


def _own_values(translated: ONNXProgram) -> None:
    """An output that is an input, or is given twice, becomes a value of its own."""
    graph = translated.model.graph
    taken = set(graph.inputs)
    for index, value in enumerate(graph.outputs):
        if value in taken:
            copy = onnx_ir.Node("", "Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            copy.outputs[0].name = f"output_{index}_of_{value.name}"
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
        taken.add(value)


def _values(translated: ONNXProgram) -> Iterator[onnx_ir.Value]:
    yield from translated.model.graph.inputs
    yield from translated.model.graph.initializers.values()
    for node in onnx_ir.traversal.RecursiveGraphIterator(translated.model.graph):
        yield from node.outputs


def _make_room(names: set[str], translated: ONNXProgram) -> None:
    """Rename inner values that have the name of an input or an output."""
    taken = {value.name for value in _values(translated)}
    for value in list(_values(translated)):
        if value.name in names:
            name = next(n for n in (f"{value.name}_{i}" for i in itertools.count(1)) if n not in taken | names)
            taken.add(name)
            value.name = name


def _name_dims(translated: ONNXProgram, inputs: Sequence[TensorSpec]) -> None:
    names: dict[str, str] = {}
    for value, spec in zip(translated.model.graph.inputs, inputs, strict=True):
        for old, new in zip(value.shape or (), spec.shape, strict=True):
            if isinstance(old, onnx_ir.SymbolicDim) and old.value is not None and isinstance(new, str):
                names[str(old.value)] = new
    for value in _values(translated):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: Any, names: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int):
        return dim
    text = getattr(dim, "value", None)
    return None if text is None else re.sub(r"\w+", lambda m: names.get(m.group(), m.group()), str(text))


def _check(path: Path, opset_version: int | None) -> None:
    """The file is valid ONNX of the version that was asked for."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise EmitError("torch.onnx wrote a file that is not valid", where=path.name, why=str(error)) from error
    imports = {entry.domain: entry.version for entry in onnx.load(str(path), load_external_data=False).opset_import}
    if opset_version is not None and imports.get("") != opset_version:
        raise EmitError(
            f"the program cannot be written with opset_version {opset_version}",
            where=path.name,
            why=f"torch.onnx could only write {imports.get('')}",
            hint=f"give {imports.get('')} or a higher one",
        )
