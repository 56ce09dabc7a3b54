"""Back to Hugging Face: a folder that ``from_pretrained`` loads, where the configuration can say the result."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphc.emitters.equality import compare
from graphc.emitters.module import to_module
from graphc.emitters.staging import staged
from graphc.errors import EmitError
from graphc.ir.capture import evaluating
from graphc.ir.program import Program

SHOWN = 4
OTHERWISE = "emit a folder or a .pt2 file, which need no configuration, or use graphc.to_module"


def save_pretrained(program: Program, original: nn.Module, path: str | Path, *, tolerance: float = 1e-4) -> Path:
    """Write a folder that ``type(original).from_pretrained`` loads and that computes what the program does.

    A configuration can say uniform changes only: as many heads in every layer, one intermediate
    size, one hidden size, fewer layers. The folder is loaded again and run beside the program at
    two sizes before it appears.

    Args:
        program: what to write.
        original: the Hugging Face model that the program was captured from; stays as it is.
        path: a new or an empty folder.
        tolerance: largest relative error that counts as equal.

    Raises:
        EmitError: the original is no Hugging Face model, its class or its configuration cannot express
            the program (names the tensors), or what was loaded differs.
    """
    if not hasattr(original, "save_pretrained") or not hasattr(original, "config"):
        why = f"{type(original).__name__} has no save_pretrained and no config"
        raise EmitError("cannot write a pretrained folder", why=why, hint=OTHERWISE)
    module: Any = to_module(program, original, tolerance=tolerance)
    _check_configuration(module)
    path = Path(path)
    with staged(path) as folder:
        module.save_pretrained(folder)
        loaded = type(module).from_pretrained(folder)
        with evaluating(loaded):
            _prove(program, loaded, tolerance, path)
    return path


def _check_configuration(module: Any) -> None:
    """A model made from the configuration has parameters of the same names and shapes."""
    name = type(module).__name__
    with torch.device("meta"):
        made = type(module)(copy.deepcopy(module.config))
    wanted, found = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (module, made))
    wrong = [n for n in {**wanted, **found} if wanted.get(n) != found.get(n)]
    if wrong:
        told = [f"{n} is {wanted.get(n, 'gone')}, it makes {found.get(n, 'none')}" for n in wrong[:SHOWN]]
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        hint = f"cut every layer alike, in a way that {type(module.config).__name__} has a field for; or {OTHERWISE}"
        raise EmitError(
            f"the configuration of {name} cannot express the program", why="; ".join(told) + more, hint=hint
        )


def _prove(program: Program, loaded: nn.Module, tolerance: float, path: Path) -> None:
    try:
        compare(program, lambda args, kwargs: loaded(*args, **kwargs), tolerance, str(path))
    except EmitError as error:
        raise EmitError(
            f"the configuration of {type(loaded).__name__} cannot express the program",
            where=str(path),
            why=f"what from_pretrained loads is not equal: {error.why}",
            hint=f"it computes some values from its configuration that the program has cut (rotary positions "
            f"from the width of heads, for example): leave these whole, or {OTHERWISE}",
        ) from error
