"""The one call of torch.export, as capture and emitters need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config


def trace(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Mapping[str, Any]
) -> ExportedProgram:
    """Trace a module without gradients; dynamic dims of every size, also 0 and 1.

    Args:
        shapes: ``dynamic_shapes`` by input, with names in place of Dim objects.

    Raises:
        Exception: whatever torch.export and the module raise; of its two ways of treating facts
            about sizes (as guards, as assertions at run time) the error of the first.
    """
    dynamic = _with_dims(shapes, {})
    first: Exception | None = None
    with torch.no_grad(), symbolic_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined] # made at import
        for deferred in (False, True):
            try:
                return torch.export.export(
                    module,
                    args,
                    dict(kwargs),
                    dynamic_shapes=dynamic,
                    strict=False,
                    prefer_deferred_runtime_asserts_over_guards=deferred,
                )
            except Exception as error:  # noqa: BLE001 - raised below if the other way fails too
                first = first or error
    assert first is not None
    raise first


def _with_dims(shapes: Any, dims: dict[str, Any]) -> Any:
    """Names of dynamic dims replaced by one Dim object each."""
    if isinstance(shapes, str):
        return dims.setdefault(shapes, Dim(shapes))
    if isinstance(shapes, Mapping):
        return {key: _with_dims(value, dims) for key, value in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        return type(shapes)(_with_dims(value, dims) for value in shapes)
    return shapes
