"""Twins: which values of two programs belong together, and both programs run in step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from graphc.errors import GraphError
from graphc.ir.contract import TensorSpec
from graphc.measure.values import INPUT, OUTPUT, Value, Values


def twins(reference: Values, other: Values) -> dict[str, tuple[str, ...]]:
    """Keys of values of ``other``, and those of the values of the reference that may be the same.

    These are of the same name, and where only one value reads that and ``other`` lacks it, such as a batch norm
    that became part of a convolution, it too: which one it is their numbers tell.

    Raises:
        GraphError: inputs or outputs do not fit together.
    """
    _check_alike("input", reference, other, {s.name: s for s in reference.inputs}, {s.name: s for s in other.inputs})
    outputs = [[s for s in side.outputs if s.dtype is not None] for side in (reference, other)]
    _check_alike("output", reference, other, *(dict(enumerate(specs)) for specs in outputs))
    after = _only_readers(reference)
    pairs: dict[str, tuple[str, ...]] = {}
    for key, value in other.values.items():
        own = key if key in reference.values else value.rounds
        if own not in reference.values or key.startswith((INPUT, OUTPUT)):
            continue
        last = after.get(own, own)
        names = (own,) if last in other.values else (own, last)
        if found := tuple(k for k in names if _are_twins(reference.values[k], value)):
            pairs[key] = found
    return pairs | {OUTPUT + b.name: (OUTPUT + a.name,) for a, b in zip(*outputs, strict=True)}


def check_inputs(side: Values, named: Mapping[str, Any]) -> None:
    """See that inputs have the sizes that are fixed.

    Raises:
        GraphError: one has not.
    """
    for spec in side.inputs:
        value = named.get(spec.name)
        if isinstance(value, torch.Tensor) and not _same_sizes(spec, TensorSpec("", None, tuple(value.shape))):
            what = f"{side.name} does not take these inputs"
            raise GraphError(what, where=spec.name, why=f"it takes {spec}, and one is {list(value.shape)}")


def _only_readers(side: Values) -> dict[str, str]:
    """Values that only one other reads, and that one."""
    readers: dict[str, list[str]] = {}
    for key, value in side.values.items():
        for source in value.reads:
            readers.setdefault(source, []).append(key)
    return {source: keys[0] for source, keys in readers.items() if len(keys) == 1 and not keys[0].startswith(OUTPUT)}


def _are_twins(x: Value, y: Value) -> bool:
    real = all(v.spec.dtype is not None and v.spec.dtype.is_floating_point for v in (x, y))
    return real and _same_sizes(x.spec, y.spec) and (x.op != y.op or x.module == y.module)


def _same_sizes(x: TensorSpec, y: TensorSpec) -> bool:
    """Are the fixed sizes the same? One that is dynamic may be any."""
    dims = zip(x.shape, y.shape, strict=False)
    return len(x.shape) == len(y.shape) and all(a == b or isinstance(a, str) or isinstance(b, str) for a, b in dims)


def _check_alike(
    kind: str, reference: Values, other: Values, first: Mapping[Any, TensorSpec], second: Mapping[Any, TensorSpec]
) -> None:
    """See that tensors correspond, inputs by name and outputs by place.

    Raises:
        GraphError: they do not; says which one.
    """
    a, b = ({key: s for key, s in specs.items() if s.dtype is not None} for specs in (first, second))
    for key in [*a, *b]:
        if key not in a or key not in b:
            has, lacks = (reference, other) if key in a else (other, reference)
            why = f"{has.name} has the {kind} {(a | b)[key]}, {lacks.name} has not"
        elif (kind == "input" and a[key].dtype != b[key].dtype) or not _same_sizes(a[key], b[key]):
            why = f"the {kind} is {a[key]} in {reference.name} and {b[key]} in {other.name}"
        else:
            continue
        hint = "compare two forms of one model; where inputs were bound or outputs selected, with a form after that"
        raise GraphError(f"{reference.name} and {other.name} cannot be compared", why=why, hint=hint)


def together(
    first: Iterator[tuple[str, torch.Tensor]],
    second: Iterator[tuple[str, torch.Tensor]],
    pairs: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, str, torch.Tensor, torch.Tensor]]:
    """Two runs in step: the first goes on only until it has what the second has come to.

    Args:
        first, second: values by key.
        pairs: keys of the second, and those of the first that belong to them.

    Yields:
        Both keys and both values, each time the first's before the second's.
    """
    left = Counter(key for keys in pairs.values() for key in keys)
    held: dict[str, torch.Tensor] = {}
    for key, y in second:
        for twin in pairs.get(key, ()):
            while twin not in held:
                name, x = next(first)
                if name in left:
                    held[name] = x
                del x
            yield twin, key, held[twin], y
            left[twin] -= 1
            if not left[twin]:
                del held[twin]
