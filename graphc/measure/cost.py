"""Cost of a Program: parameters, multiply-accumulates and bytes, and where they changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from graphc.coupling.cost import budget, one_sample
from graphc.coupling.flow import analyze
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cost:
    """What a program costs.

    Attributes:
        params: entries of all parameters, tied ones once.
        macs: multiply-accumulates of one run (1 MAC = 2 FLOPs) in convolutions, linear layers, matrix
            products, attention and einsum. A ratio of MACs is not a speed-up.
        bytes: memory of all parameters, buffers and constants; of masks none, as no artifact has them.
    """

    params: int
    macs: int
    bytes: int

    def to_dict(self) -> dict[str, int]:
        """All fields."""
        return asdict(self)


@dataclass(frozen=True)
class Change:
    """One module whose tensors changed.

    Attributes:
        module: its path; empty for the root.
        before, after: shapes by tensor name within the module; ``after`` is empty if it was removed,
            ``before`` if it is new.
    """

    module: str
    before: Shapes
    after: Shapes

    def __str__(self) -> str:
        """``layer1.0.conv1: weight 64x64x3x3 => 32x64x3x3`` or ``...: removed``."""
        name = self.module or "(root)"
        if not self.after:
            return f"{name}: removed"
        if not self.before:
            return f"{name}: new, {', '.join(f'{k} {_times(v)}' for k, v in self.after.items())}"
        words = []
        for key in dict.fromkeys([*self.before, *self.after]):
            old, new = self.before.get(key), self.after.get(key)
            if old != new:
                words.append(f"{key} {_times(old, 'new')} => {_times(new, 'removed')}")
        return f"{name}: {', '.join(words)}"


def cost(program: Program, **dims: int) -> Cost:
    """Count parameters, MACs (1 MAC = 2 FLOPs) and bytes, exactly.

    Args:
        program: any Program.
        dims: sizes of dynamic dims by name. The batch (dim 0 of the first input, if dynamic) is 1
            unless given; the others are those of the example inputs.

    Raises:
        GraphError: a name is not a dynamic dim of the program.
    """
    program = make_permanent(program)
    found = budget(analyze(program), None, **{**one_sample(program), **dims})
    return Cost(found.params, found.macs, found.bytes)


def layers(program: Program) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of all tensors but masks, by module path and by name within the module."""
    table: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, value in make_permanent(program).tensors().items():
        path, _, own = name.rpartition(".")
        table[path][own] = tuple(value.shape)
    return dict(table)


def changes(before: Program, after: Program) -> list[Change]:
    """Modules whose tensors differ in shape, were removed or are new, in the order of ``before``."""
    old, new = layers(before), layers(after)
    paths = dict.fromkeys([*old, *new])
    return [Change(p, old.get(p, {}), new.get(p, {})) for p in paths if old.get(p) != new.get(p)]


def _times(shape: tuple[int, ...] | None, missing: str = "") -> str:
    return missing if shape is None else "x".join(map(str, shape)) or "scalar"
