"""Fidelity: how far the outputs of two models are apart on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphc.errors import GraphError
from graphc.ir.contract import Contract
from graphc.measure.runnable import Inputs, split_inputs


@dataclass(frozen=True)
class Fidelity:
    """How far one output is from its reference.

    Attributes:
        name: place of the output in its pytree (``logits``).
        relative_error: norm of the difference over norm of the reference; 0 for equal zeros.
        max_abs: largest absolute difference.
        cosine: of the two outputs as vectors; 1 for two zero vectors.
    """

    name: str
    relative_error: float
    max_abs: float
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def fidelity(a: Callable[..., Any], b: Callable[..., Any], inputs: Inputs) -> list[Fidelity]:
    """Compare the outputs of ``b`` with those of the reference ``a``.

    Args:
        a, b: Programs, modules or callables. They run without gradients and as they are.
        inputs: a tensor, a tuple of positional or a mapping of named inputs.

    Returns:
        One Fidelity for each tensor among the outputs; dataclass-like outputs (Hugging Face's
        ModelOutput) are taken apart by field.

    Raises:
        GraphError: the outputs differ in number or in shape.
    """
    args, kwargs = split_inputs(inputs)
    with torch.no_grad():
        first, second = (named_tensors(f(*args, **kwargs)) for f in (a, b))
    if len(first) != len(second):
        raise GraphError(
            "the outputs cannot be compared", why=f"{len(first)} tensors in one, {len(second)} in the other"
        )
    return [compare_tensors(name, x, y) for (name, x), (_, y) in zip(first, second, strict=True)]


def named_tensors(outputs: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a pytree with their places as names."""
    if hasattr(outputs, "to_tuple") and hasattr(outputs, "items"):
        outputs = dict(outputs.items())
    pairs = pytree.tree_flatten_with_path(outputs)[0]
    return [(pytree.keystr(path).strip("[]'.") or "output", v) for path, v in pairs if isinstance(v, torch.Tensor)]


def shared_outputs(
    first: Contract, results: Any, second: Contract, others: Any
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name and both values of each tensor among the outputs that two programs have in common, in the first's order.

    Args:
        first, second: their contracts.
        results, others: what they gave.
    """
    known = {spec.name: value for spec, value in zip(second.outputs, pytree.tree_leaves(others), strict=True)}
    pairs = zip(first.outputs, pytree.tree_leaves(results), strict=True)
    found = [(spec.name, value, known.get(spec.name)) for spec, value in pairs]
    return [(n, x, y) for n, x, y in found if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)]


def compare_tensors(name: str, reference: torch.Tensor, other: torch.Tensor) -> Fidelity:
    """Compare one tensor with its reference, in float64.

    Raises:
        GraphError: the shapes differ.
    """
    if reference.shape != other.shape:
        why = f"{name} is {list(reference.shape)} in the reference and {list(other.shape)} in the other"
        raise GraphError("the outputs cannot be compared", why=why)
    x, y = reference.detach().double().cpu().flatten(), other.detach().double().cpu().flatten()
    norm, difference = float(x.norm()), float((x - y).norm())
    relative = difference / norm if norm else (0.0 if difference == 0 else float("inf"))
    both = norm * float(y.norm())
    cosine = float(x @ y) / both if both else float(norm == float(y.norm()))
    return Fidelity(name, relative, float((x - y).abs().max()) if x.numel() else 0.0, cosine)
