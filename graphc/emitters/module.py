"""Back into the user's own class: a copy of the original that has the program's tensors and sizes."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphc.emitters.equality import compare
from graphc.emitters.restate import restate
from graphc.errors import EmitError
from graphc.ir.capture import evaluating
from graphc.ir.program import Program

Kept = Mapping[str, tuple[str, ...]]
"""For each list of layers that lost some: its path, and the names of the children that stay."""


def to_module(program: Program, original: nn.Module, *, tolerance: float = 1e-4) -> nn.Module:
    """A module of the original's class that computes what the program computes.

    The original stays as it is. In the copy, tensors of the same names are the program's (copies,
    tied ones stay one), layers that the program no longer has are taken out of their ModuleList
    or Sequential, and attributes and the Hugging Face config restate the new sizes. The copy is
    then run beside the program at two sizes.

    Args:
        original: the module that the program was captured from.
        tolerance: largest relative error that counts as equal.

    Raises:
        EmitError: the class cannot express the program: a parameter has no place, a size is fixed
            in its forward, or the results differ. Names the first difference.
    """
    kept = _kept_layers(program, original)
    failures: list[EmitError] = []
    for layers in [kept, {}] if kept else [{}]:
        module = copy.deepcopy(original)
        try:
            _shrink(module, layers)
            _fill(module, program, layers)
            restate(module, original, program, lambda name, layers=layers: renumbered(name, layers))  # type: ignore[misc] # a default binds the loop's value
            _prove(module, program, tolerance)
        except EmitError as error:
            failures.append(error)
        else:
            return module
    raise failures[0]


def _kept_layers(program: Program, original: nn.Module) -> Kept:
    """Lists of layers of which some have parameters that the program no longer uses at all."""
    used = {*program.tensors(), *program.aliases}
    kept: dict[str, tuple[str, ...]] = {}
    for path, module in original.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            prefix = f"{path}." if path else ""
            gone = [
                name
                for name, child in module.named_children()
                if next(child.parameters(), None) is not None and not _uses(used, f"{prefix}{name}.")
            ]
            if gone and _uses(used, prefix):
                kept[path] = tuple(name for name, _ in module.named_children() if name not in gone)
    return kept


def _uses(names: set[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _shrink(module: nn.Module, kept: Kept) -> None:
    lists = {path: module.get_submodule(path) for path in kept}
    for path, layers in lists.items():
        children = [layers._modules[name] for name in kept[path]]
        for new, (old, child) in enumerate(zip(kept[path], children, strict=True)):
            for part in child.modules() if child is not None else ():
                if getattr(part, "layer_idx", None) == int(old):
                    part.layer_idx = new  # type: ignore[assignment] # an int that Hugging Face modules have
        layers._modules.clear()
        layers._modules.update({str(i): child for i, child in enumerate(children)})


def renumbered(name: str, kept: Kept) -> str | None:
    """A dotted name of the original as it is after layers were taken out; None if it went with one."""
    parts = name.split(".")
    renamed: list[str] = []
    for index, part in enumerate(parts):
        layers = kept.get(".".join(parts[:index]))
        if layers is None:
            renamed.append(part)
        elif part in layers:
            renamed.append(str(layers.index(part)))
        else:
            return None
    return ".".join(renamed)


def _fill(module: nn.Module, program: Program, kept: Kept) -> None:
    """Put copies of the program's tensors under their names; constants of the code have no place and need none."""
    names: dict[str, list[str]] = {name: [name] for name in program.tensors()}
    for alias, name in program.aliases.items():
        names.setdefault(name, [name]).append(alias)
    for name, value in program.tensors().items():
        own: torch.Tensor = value.detach().clone()
        if isinstance(value, nn.Parameter):
            own = nn.Parameter(own, requires_grad=value.requires_grad)
        for target in (renumbered(n, kept) for n in names[name]):
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
