"""Back into the user's own class: a copy of the original that has the program's tensors and sizes."""

from __future__ import annotations

import copy
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphc.emitters.attributes import Evidence, settle
from graphc.emitters.configuration import fit_configs
from graphc.emitters.equality import compare
from graphc.emitters.layers import Kept, choices, gone_modules, renamed, take_out
from graphc.emitters.restate import restate
from graphc.errors import EmitError
from graphc.ir.capture import evaluating
from graphc.ir.graph import module_path
from graphc.ir.lazy import LazyTensor, is_lazy
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.ir.quantized import MEANING


def to_module(program: Program, original: nn.Module, *, tolerance: float = 1e-4) -> nn.Module:
    """A module of the original's class that computes what the program computes.

    The original stays as it is. In the copy, tensors of the same names are the program's (copies,
    tied ones stay one), layers that the program no longer has are taken out, and attributes and the
    Hugging Face config restate the new sizes. The copy is then run beside the program at two sizes.

    Args:
        original: the module that the program was captured from.
        tolerance: largest relative error that counts as equal.

    Raises:
        EmitError: the class cannot express the program: a parameter has no place, a size is fixed
            in its forward, or the results differ. Names the first difference.
    """
    _check_real(program, original)
    _check_whole(program, original)
    program = make_permanent(program, keep=original.state_dict())
    gone, evidence = gone_modules(program, original), Evidence(program, original)
    failures: list[EmitError] = []
    for kept in choices(original, gone):
        try:
            return _restated(evidence, kept, tolerance)
        except EmitError as error:
            failures.append(error)
    first = failures[0]
    if gone:
        names = ", ".join(gone[:4]) + (f", ... ({len(gone)} in all)" if len(gone) > 4 else "")
        first.why += f"; the program has none of {names}, which the class runs"
    raise first


def _check_real(program: Program, original: nn.Module) -> None:
    """No quantised op and no weight of another type: a class computes with its own weights, as they are."""
    ops = [node for node in program.graph.nodes if node.target in MEANING]
    tensors, own = program.tensors(), original.state_dict()
    other = [name for name in tensors.keys() & own.keys() if tensors[name].dtype != own[name].dtype]
    if not ops and not other:
        return
    where = f"{ops[0].name} in {module_path(ops[0]) or 'the root'}" if ops else min(other)
    why = f"the program is quantised ({len(ops)} such ops), which the class's own forward knows nothing of"
    if not ops:
        word = str(tensors[where].dtype).removeprefix("torch.")
        why = f"the program computes in {word} between inputs and outputs of other types, the class in one type"
    raise EmitError(
        f"{type(original).__name__} cannot express the program",
        where=where,
        why=why,
        hint="emit a folder, a .pt2 or an .onnx file, which need no class; or go back to it before quantising",
    )


def _check_whole(program: Program, original: nn.Module) -> None:
    """All inputs and outputs that the class has: its forward takes and gives them whatever the program does."""
    contract = program.contract
    lacks = [f"the input {one.spec.name!r} is a constant" for one in contract.bound]
    lacks += [f"the output {spec.name!r} is dropped" for spec in contract.dropped]
    if lacks:
        raise EmitError(
            f"{type(original).__name__} cannot express the program",
            where=type(original).__name__,
            why=f"in the program {' and '.join(lacks)}, and the class's own forward still has it",
            hint="emit a folder, a .pt2 or an .onnx file, which need no class, or load the program's tensors into a "
            "class of its form",
        )


def _restated(evidence: Evidence, kept: Kept, tolerance: float) -> nn.Module:
    """The copy without some layers, proven equal; attributes of no known name are searched for if need be."""
    program, original = evidence.program, evidence.original
    module = copy.deepcopy(original)

    def rename(name: str) -> str | None:
        return renamed(name, kept)

    def proves() -> bool:
        try:
            _prove(module, program, tolerance)
        except EmitError:
            return False
        return True

    take_out(module, kept)
    _fill(module, program, kept)
    restate(module, original, program, rename)
    fit_configs(module, original, kept)
    try:
        _prove(module, program, tolerance)
    except EmitError:
        if is_lazy(program.tensors()) or not settle(module, evidence, rename, proves):
            raise
        fit_configs(module, original, kept)
        _prove(module, program, tolerance)
    return module


def _fill(module: nn.Module, program: Program, kept: Kept) -> None:
    """Put copies of the program's tensors under their names; constants of the code have no place and need none."""
    names: dict[str, list[str]] = {name: [name] for name in program.tensors()}
    for alias, name in program.aliases.items():
        names.setdefault(name, [name]).append(alias)
    for name, value in program.tensors().items():
        own: torch.Tensor = value.detach() if isinstance(value, LazyTensor) else value.detach().clone()
        if isinstance(value, nn.Parameter):
            own = nn.Parameter(own, requires_grad=value.requires_grad)
        for target in (renamed(n, kept) for n in names[name]):
            if target is not None and not _put(module, target, own) and isinstance(own, nn.Parameter):
                raise EmitError(
                    f"{type(module).__name__} cannot express the program",
                    where=name,
                    why="the class has no parameter of this name",
                    hint="emit a folder or a .pt2 file, which need no class",
                )


def _put(module: nn.Module, name: str, value: torch.Tensor) -> bool:
    path, _, last = name.rpartition(".")
    try:
        owner = module.get_submodule(path)
    except AttributeError:
        return False
    place: dict[str, Any] = owner._parameters if isinstance(value, nn.Parameter) else owner._buffers
    if place.get(last) is None:
        return False
    place[last] = value
    return True


def _prove(module: nn.Module, program: Program, tolerance: float) -> None:
    name = type(module).__name__
    try:
        with evaluating(module):
            compare(program, lambda args, kwargs: module(*args, **kwargs), tolerance, name)
    except EmitError as error:
        raise EmitError(
            f"{name} cannot express the program",
            where=_line(error.__cause__) or error.where,
            why=error.why,
            hint="its forward fixes a size or a layer that the program changed: compute it from the tensors, "
            "or emit a folder or a .pt2 file, which need no class",
        ) from error


def _line(error: BaseException | None) -> str:
    """The innermost line that is neither torch's nor ours."""
    if error is None:
        return ""
    inside = [Path(torch.__file__).parent, Path(__file__).parents[1]]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    frames = [f for f in frames if not any(Path(f.filename).is_relative_to(p) for p in inside)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
