"""Hollow models: built without memory for their parameters, traced, and bound to a checkpoint afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakIdKeyDictionary

from graphc.errors import CaptureError
from graphc.ir.capture import Dynamic, capture
from graphc.ir.checkpoint import Sources, find_sources, names_of, read_checkpoint
from graphc.ir.edit import rebuild
from graphc.ir.lazy import LazyTensor
from graphc.ir.program import Program


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Parameters of modules that are made meanwhile are on the meta device; buffers are real, as they are computed."""
    made = WeakIdKeyDictionary()

    def empty(module: nn.Module, name: str, value: nn.Parameter | None) -> nn.Parameter | None:
        if value is None or value.is_meta:
            return None
        if value not in made:
            made[value] = nn.Parameter(value.detach().to("meta"), value.requires_grad)
        found: nn.Parameter = made[value]
        return found

    handle = register_module_parameter_registration_hook(empty)  # type: ignore[arg-type] # it may give a parameter
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Modules that are made meanwhile have this dtype, unless they say another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def stand_in(model: nn.Module) -> None:
    """Give the parameters of a model made ``without_memory`` one entry each, seen as many: torch.export traces those.

    Raises:
        CaptureError: a buffer has no memory either, as it was computed from parameters.
    """
    lost = next((name for name, value in model.named_buffers() if value.is_meta), None)
    if lost is not None:
        why = "it is computed from parameters when the model is made, before these have values"
        raise CaptureError("the model cannot be made without memory", where=lost, why=why, hint="leave out low_memory")
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None and value.is_meta:
                if id(value) not in made:
                    one = torch.zeros((), dtype=value.dtype).expand(value.shape)
                    made[id(value)] = nn.Parameter(one, value.requires_grad)
                module._parameters[name] = made[id(value)]


def capture_lazily(
    make: Callable[[], nn.Module],
    checkpoint: Sources | str | Path,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic | None = None,
) -> Program:
    """Trace a model whose weights are in a checkpoint and stay there: the Program's tensors are lazy.

    The model is made without memory for its parameters, so that its initial values do not count. Slices of such a
    Program read nothing; it runs, and is emitted, with about one weight in memory at a time.

    Args:
        make: makes the model, in the dtype of the checkpoint.
        checkpoint: a ``.safetensors`` file, an index of shards, or a folder with one of these.
        args, kwargs, dynamic: as for ``graphc.capture``.

    Raises:
        CaptureError: the model cannot be made or traced without memory.
        GraphError: the checkpoint cannot be read, lacks a tensor, or has one with another shape or dtype.
    """
    sources = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint)
    with without_memory():
        model = make()
    stand_in(model)
    return bind(capture(model, args, kwargs, dynamic=dynamic), model, sources)


def open_model(make: Callable[[], nn.Module], checkpoint: Sources | str | Path) -> nn.Module:
    """A model whose weights stay in a checkpoint: it runs, with one of them in memory at a time, and does not train.

    Args:
        make, checkpoint: as for ``capture_lazily``.

    Raises:
        GraphError: the checkpoint cannot be read, lacks a tensor, or has one with another shape or dtype.
    """
    sources = checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint)
    with without_memory():
        model = make()
    names, state = names_of(model), model.state_dict(keep_vars=True)
    for main, source in find_sources(names, state, sources).items():
        value = _like(state[main], LazyTensor(source))
        for name in names[main]:
            path, _, last = name.rpartition(".")
            module = model.get_submodule(path)
            own: dict[str, Any] = module._parameters if last in module._parameters else module._buffers
            own[last] = value
    return model.eval()


def bind(program: Program, model: nn.Module, sources: Sources) -> Program:
    """Put lazy tensors of a checkpoint in the place of all that a checkpoint of the model has.

    Args:
        program: captured from the model.
        model: hollow; says which names are in its checkpoints.
        sources: of the checkpoint.

    Raises:
        GraphError: the checkpoint lacks a tensor, or has it with another shape or dtype.
    """
    names = names_of(model)
    first = {name: main for main, others in names.items() for name in others}
    known = {**program.tensors(), **program.unused}
    wanted = {name: names[first[name]] for name in known if name in first}
    found = find_sources(wanted, known, sources)
    lazy = {name: _like(known[name], LazyTensor(source)) for name, source in found.items()}
    bound = rebuild(program, tensors=lazy)
    unused = {name: cast(nn.Parameter, lazy.get(name, value)) for name, value in program.unused.items()}
    return dataclasses.replace(bound, unused=unused)


def _like(old: torch.Tensor, new: LazyTensor) -> torch.Tensor:
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
