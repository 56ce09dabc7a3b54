"""Checkpoint: where a training stands, in one file that is whole or not there: safetensors with JSON, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from graphc.emitters.staging import writing
from graphc.errors import GraphError
from graphc.ir.digest import digest as digest

Row = dict[str, float]


@dataclass
class State:
    """Where a training stands, besides its tensors.

    Attributes:
        step: optimiser steps done.
        epoch, batch: the epoch, and how many of its batches are done.
        best: the best metric so far, with the step that it was taken after.
        waited: evaluations since then.
        evaluations: step, loss and metric of each evaluation.
        done: the training is over, and the tensors are its result.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    evaluations: list[Row] = field(default_factory=list)
    done: bool = False


def save(
    path: Path, fingerprint: str, state: State, groups: Mapping[str, Mapping[str, Tensor]], more: Any = None
) -> None:
    """Write a checkpoint under a temporary name, then rename it.

    Args:
        path: the file.
        fingerprint: of the training that it belongs to.
        state: where the training stands.
        groups: tensors by name, in groups.
        more: JSON-able facts, such as plain numbers of the optimiser.

    Raises:
        GraphError: the disk is full; the checkpoint before is as it was.
    """
    tensors = {
        f"{group}/{name}": t.detach().contiguous() for group, named in groups.items() for name, t in named.items()
    }
    content = {"fingerprint": fingerprint, "state": asdict(state), "more": more}
    temporary = path.with_name(f".{path.name}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"graphc": json.dumps(content)})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: see ``save``."""

    state: State
    groups: Mapping[str, Mapping[str, Tensor]]
    more: Any


def load(path: Path, fingerprint: str) -> Saved | None:
    """Read a checkpoint; None if there is none.

    Raises:
        GraphError: it is not readable, or of another training.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()["graphc"])
            groups: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                group, _, name = key.partition("/")
                groups.setdefault(group, {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise GraphError("the checkpoint cannot be read", where=str(path), why=str(error), hint="delete it") from error
    if content["fingerprint"] != fingerprint:
        why = "the program, the options of the pass or the seed were others"
        hint = "run without resume to begin anew"
        raise GraphError("the checkpoint is of another training", where=str(path), why=why, hint=hint)
    return Saved(State(**content["state"]), groups, content["more"])


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimiser: tensors, and plain numbers, by ``parameter.key``."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{key}"] = value
    return tensors, numbers


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Give an optimiser the state that ``optimizer_tensors`` took."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *numbers.items()]:
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
