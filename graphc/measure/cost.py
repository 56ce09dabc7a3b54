"""Cost of a Program: parameters, multiply-accumulates and bytes, and where they changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from graphc.coupling.cost import budget, one_sample
from graphc.coupling.flow import analyze
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.ir.quantized import packed, scales


@dataclass(frozen=True)
class Form:
    """What a tensor is like.

    Attributes:
        shape: its sizes; of numbers kept two in a byte, those of the numbers.
        dtype: ``float32``, ``int8``, ``uint4``.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        """``64x3x3x3``; with the type if that is not float32."""
        return self.sizes if self.dtype == "float32" else f"{self.sizes} {self.dtype}"

    @property
    def sizes(self) -> str:
        """``64x3x3x3``."""
        return "x".join(map(str, self.shape)) or "scalar"

    def became(self, other: Form) -> str:
        """What is different in another: ``64x32 => 32x32``, ``float32 => int8``."""
        if self.shape == other.shape:
            return f"{self.dtype} => {other.dtype}"
        if self.dtype == other.dtype:
            return f"{self.sizes} => {other.sizes}"
        return f"{self.sizes} {self.dtype} => {other.sizes} {other.dtype}"


Forms = Mapping[str, Form]


@dataclass(frozen=True)
class Cost:
    """What a program costs.

    Attributes:
        params: entries of all parameters, tied ones once, as numbers of any type; scales and zero points are none.
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
        before, after: its tensors by name within the module; ``after`` is empty if it was removed,
            ``before`` if it is new.
    """

    module: str
    before: Forms
    after: Forms

    def __str__(self) -> str:
        """``layer1.0.conv1: weight 64x64x3x3 => 32x64x3x3``, ``...: weight float32 => int8`` or ``...: removed``."""
        name = self.module or "(root)"
        if not self.after:
            return f"{name}: removed"
        if not self.before:
            return f"{name}: new, {', '.join(f'{k} {v}' for k, v in self.after.items())}"
        words = []
        for key in dict.fromkeys([*self.before, *self.after]):
            old, new = self.before.get(key), self.after.get(key)
            if old is None or new is None:
                words.append(f"{key} {old or 'new'} => {new or 'removed'}")
            elif old != new:
                words.append(f"{key} {old.became(new)}")
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


def layers(program: Program) -> dict[str, dict[str, Form]]:
    """All tensors by module path and by name within the module, but masks, scales and zero points."""
    program = make_permanent(program)
    halves, left_out = packed(program.graph), scales(program.graph)
    table: dict[str, dict[str, Form]] = defaultdict(dict)
    for name, value in program.tensors().items():
        path, _, own = name.rpartition(".")
        if name in halves:
            table[path][own] = Form((*value.shape[:-1], 2 * value.shape[-1]), "uint4")
        elif name not in left_out:
            table[path][own] = Form(tuple(value.shape), str(value.dtype).removeprefix("torch."))
    return dict(table)


def changes(before: Program, after: Program) -> list[Change]:
    """Modules whose tensors differ in shape or type, were removed or are new, in the order of ``before``."""
    old, new = layers(before), layers(after)
    paths = dict.fromkeys([*old, *new])
    return [Change(p, old.get(p, {}), new.get(p, {})) for p in paths if old.get(p) != new.get(p)]
