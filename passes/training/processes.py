"""Processes: accelerate's view of devices and of the processes that train together."""

from __future__ import annotations

import importlib
from typing import Any

from graphc.errors import RecipeError


def find_accelerate() -> Any:
    """The package accelerate.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        return importlib.import_module("accelerate")
    except ImportError as error:
        hint = "pip install 'graphc[train]'"
        raise RecipeError("training needs the package accelerate", why=str(error), hint=hint) from error


def make_accelerator(device: str) -> Any:
    """Devices and processes as ``accelerate launch`` set them up; this process alone otherwise.

    Raises:
        RecipeError: accelerate is not installed, or it splits the weights among processes.
    """
    found = find_accelerate().Accelerator(cpu=device == "cpu")
    kind = found.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        why = "parts of the weights are in other processes, and evaluation and checkpoints read all of them"
        hint = "use plain data parallelism: accelerate launch --multi_gpu, or --cpu --num_processes N"
        raise RecipeError(f"graphc does not train by {kind}", where="accelerate", why=why, hint=hint)
    return found
