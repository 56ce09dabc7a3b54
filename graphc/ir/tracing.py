"""The one call of torch.export, as capture and emitters need it."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config
from torch.nn.utils import prune


def trace(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Mapping[str, Any]
) -> ExportedProgram:
    """Trace a module without gradients; dynamic dims of every size, also 0 and 1.

    Args:
        shapes: ``dynamic_shapes`` by input, with names in place of Dim objects.

    torch.export has two ways of treating facts about sizes (as guards, as assertions at run time),
    and a dim may have a name, which it then has to prove to be one size wherever the name stands.
    Where that proof is beyond it, dims are only said to vary.

    Raises:
        Exception: whatever torch.export and the module raise on the first way.
    """
    first: Exception | None = None
    named, varying = _with_dims(shapes, cache(Dim)), _with_dims(shapes, lambda _: Dim.DYNAMIC)
    with torch.no_grad(), symbolic_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined] # made at import
        for dynamic, deferred in ((named, False), (named, True), (varying, False)):
            try:
                with _quiet_failure(), _masks_are_known(module):
                    return torch.export.export(
                        module,
                        args,
                        dict(kwargs),
                        dynamic_shapes=dynamic,
                        strict=False,
                        prefer_deferred_runtime_asserts_over_guards=deferred,
                    )
            except Exception as error:  # noqa: BLE001 - raised below if the other ways fail too
                first = first or error
    assert first is not None
    raise first


@contextlib.contextmanager
def _masks_are_known(module: torch.nn.Module) -> Iterator[None]:
    """No warning that a masked weight is computed in a hook, as torch.nn.utils.prune does on each call."""
    with warnings.catch_warnings():
        if prune.is_pruned(module):
            warnings.filterwarnings("ignore", message="The tensor attributes? ")
        yield


@contextlib.contextmanager
def _quiet_failure() -> Iterator[None]:
    """Standard error without the graph, thousands of lines long, that a failing torch.export prints there."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        yield
    sys.stderr.write(printed.getvalue())


def _with_dims(shapes: Any, dim: Callable[[str], Any]) -> Any:
    """Names of dynamic dims replaced by what stands for them."""
    if isinstance(shapes, str):
        return dim(shapes)
    if isinstance(shapes, Mapping):
        return {key: _with_dims(value, dim) for key, value in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        return type(shapes)(_with_dims(value, dim) for value in shapes)
    return shapes
