"""Optimisation: optimisers and schedules by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from graphc.errors import RecipeError, nearest

OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, Optimizer)
    and kind not in (Optimizer, torch.optim.LBFGS, torch.optim.SparseAdam)
}
"""Those of torch.optim by their names in small letters; LBFGS, which runs the model itself, is none of them, nor is
SparseAdam, which takes no dense gradients."""

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
}
"""What the learning rate is multiplied by, from t = 0 to 1, after the warm-up."""


def find_optimizer(name: str) -> type[Optimizer]:
    """An optimiser of torch by its name.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if name.lower() not in OPTIMIZERS:
        raise RecipeError(f"no optimizer is called {name!r}", where="optimizer", hint=nearest(name, OPTIMIZERS))
    return OPTIMIZERS[name.lower()]


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """See that an optimiser takes these options.

    Raises:
        RecipeError: it does not; names the nearest that it takes.
    """
    every = inspect.signature(find_optimizer(name)).parameters
    known = [key for key in every if key not in ("self", "params", "lr", "weight_decay")]
    for key in options:
        if key in ("lr", "weight_decay"):
            what = f"{key} is no option of the optimizer in a recipe"
            raise RecipeError(what, where="optimizer_options", hint="the pass has learning_rate and weight_decay")
        if key not in known:
            what = f"the optimizer {name} has no option {key!r}"
            raise RecipeError(what, where="optimizer_options", hint=nearest(key, known))


def make_optimizer(
    name: str, parameters: Iterable[Parameter], learning_rate: float, weight_decay: float, options: Mapping[str, Any]
) -> Optimizer:
    """An optimiser; biases and scales, which vary along one dim, do not decay.

    Raises:
        RecipeError: it does not take such parameters, or an option has a wrong value.
    """
    every = list(parameters)
    groups = [
        {"params": [p for p in every if _varies(p) > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if _varies(p) <= 1], "weight_decay": 0.0},
    ]
    return with_options(name, [g for g in groups if g["params"]], {"lr": learning_rate, **options})


def with_options(name: str, parameters: Iterable[Any], options: Mapping[str, Any]) -> Optimizer:
    """An optimiser of torch by its name, with its own arguments.

    Raises:
        RecipeError: it does not take such parameters, or an option has a wrong value.
    """
    kind: Any = find_optimizer(name)
    try:
        made: Optimizer = kind(parameters, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"the optimizer {name} cannot be made"
        hint = "change optimizer_options, or choose another optimizer"
        raise RecipeError(what, where="optimizer", why=str(error), hint=hint) from error
    return made


def _varies(parameter: Parameter) -> int:
    """Along how many dims."""
    return sum(size != 1 for size in parameter.shape)


def make_schedule(optimizer: Optimizer, schedule: str, warmup: float, steps: int, done: int = 0) -> LambdaLR:
    """The learning rate over all steps: up in a line over the warm-up, then as the schedule says.

    Args:
        optimizer: whose rate it sets.
        schedule: constant, linear or cosine.
        warmup: a share of the steps if below 1, else a number of them.
        steps: of the optimiser, in all.
        done: steps made before.
    """
    first = warmup * steps if warmup < 1 else warmup
    shape = SCHEDULES[schedule]

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / (first + 1)
        return shape(min(1.0, (step - first) / max(1.0, steps - first)))

    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimizer, lambda step: factor(step), last_epoch=done - 1)
