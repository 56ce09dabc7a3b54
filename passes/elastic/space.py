"""The space of sub-networks: what can be chosen in a program, a choice of it all, and what that comes to.

    space = find_space(program, kernel=[7, 5, 3], expand=[6, 4, 3], depth=[4, 3, 2])
    spec = space.sample(torch.Generator().manual_seed(0))     # or space.largest, space.smallest, Spec.from_dict(...)
    space.cut(spec)                                           # which axes, kernels and layers that is
    small = subnetwork(program, space, spec)

``find_space`` (in ``finding``) reads the space off a program; ``subnetwork`` makes the program of a spec. A space and a
spec are plain values: names, numbers and tuples, without nodes or tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from graphc.errors import RecipeError, nearest


@dataclass(frozen=True)
class Choice:
    """Something that can have several values.

    Attributes:
        name: module path of a block, of a layer or of blocks (``blocks.1-4``), or the name of an axis.
        values: that it can have, from the largest, which is what the program has.
    """

    name: str
    values: Sequence[int]


@dataclass(frozen=True)
class KernelChoice(Choice):
    """The size of kernels.

    Attributes:
        weights: names of the parameters that get this size together.
        matrices: of each weight, by smaller size, the unused parameter that makes it of the next larger one.
        block: the block that they are in; empty if in none.
    """

    weights: tuple[str, ...]
    matrices: Mapping[str, Mapping[int, str]] = field(default_factory=dict, hash=False)
    block: str = ""


@dataclass(frozen=True)
class Squeeze:
    """The inner axis of a squeeze branch that follows a width: a part of it, rounded.

    Attributes:
        axis: its name.
        size: how many units it has.
        part: it has one unit for so many channels.
        round_to: and then a multiple of this.
    """

    axis: str
    size: int
    part: int
    round_to: int

    def units(self, channels: int) -> int:
        """How many it has for so many channels."""
        return min(self.size, divisible(channels // self.part, self.round_to))


@dataclass(frozen=True)
class WidthChoice(Choice):
    """A number of channels: the inner ones of a block, or those between blocks.

    Attributes:
        axes: each with how many channels one unit of it has, more than one where whole groups or heads go.
        squeezes: what follows.
        block: the block that they are in; empty for what is between blocks.
    """

    axes: tuple[tuple[str, int], ...]
    squeezes: tuple[Squeeze, ...] = ()
    block: str = ""


@dataclass(frozen=True)
class DepthChoice(Choice):
    """How many blocks of a stage there are, the first ones.

    Attributes:
        blocks: their names.
        layers: of each that can be left out the node that leaves it and the node that takes its place.
    """

    blocks: tuple[str, ...]
    layers: Mapping[str, tuple[str, str]] = field(hash=False)


@dataclass(frozen=True)
class Spec:
    """One sub-network: values by the names of choices; a choice that is left out has its largest.

    Attributes:
        kernel: sizes of kernels.
        width: numbers of channels; also of a squeeze branch, by its axis, which then does not follow.
        depth: numbers of blocks.
    """

    kernel: Mapping[str, int] = field(default_factory=dict)
    width: Mapping[str, int] = field(default_factory=dict)
    depth: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, int]]:
        """As plain values, for JSON and YAML."""
        return {"kernel": dict(self.kernel), "width": dict(self.width), "depth": dict(self.depth)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, int]]) -> Spec:
        """The spec of plain values.

        Raises:
            RecipeError: there is a key other than kernel, width and depth.
        """
        for key in values:
            if key not in ("kernel", "width", "depth"):
                raise RecipeError(f"a spec has no {key!r}", hint=nearest(key, ["kernel", "width", "depth"]))
        return cls(**{key: dict(chosen) for key, chosen in values.items()})


@dataclass(frozen=True)
class Cut:
    """What a spec comes to.

    Attributes:
        units: by axis, how many of its first units stay.
        kernels: by weight, the size along its longest dim; only kernels that shrink.
        skipped: of each block that is left out the node that leaves it and the node that takes its place.
    """

    units: Mapping[str, int]
    kernels: Mapping[str, int]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class Space:
    """All that can be chosen, each independently of the rest.

    Attributes:
        kernels: in graph order.
        widths: in graph order; inner ones first, then those between blocks.
        depths: in graph order.
    """

    kernels: tuple[KernelChoice, ...] = ()
    widths: tuple[WidthChoice, ...] = ()
    depths: tuple[DepthChoice, ...] = ()

    def parts(self) -> Iterator[tuple[str, Sequence[Choice]]]:
        """The choices by the part of a spec that they are in."""
        yield from (("kernel", self.kernels), ("width", self.widths), ("depth", self.depths))

    @property
    def largest(self) -> Spec:
        """Everything as the program has it."""
        return self._spec(0)

    @property
    def smallest(self) -> Spec:
        """Everything as small as can be."""
        return self._spec(-1)

    def _spec(self, place: int) -> Spec:
        return Spec(**{part: {c.name: c.values[place] for c in choices} for part, choices in self.parts()})

    def sample(self, generator: torch.Generator | None = None) -> Spec:
        """Each value as likely as the others of its choice."""
        return Spec(
            **{
                part: {c.name: c.values[_draw(len(c.values), generator)] for c in choices}
                for part, choices in self.parts()
            }
        )

    @property
    def squeezes(self) -> tuple[WidthChoice, ...]:
        """Squeeze branches: they follow a width, unless a spec says how wide they are."""
        return tuple(
            WidthChoice(s.axis, range(s.size, 0, -1), ((s.axis, 1),), block=width.block)
            for width in self.widths
            for s in width.squeezes
        )

    @property
    def count(self) -> int:
        """How many specs there are."""
        return math.prod(len(choice.values) for _, choices in self.parts() for choice in choices)

    def check(self, spec: Spec) -> None:
        """Every name is known, and every value legal.

        Raises:
            RecipeError: one is not; says which values its choice has.
        """
        for part, choices in self.parts():
            known = {c.name: c for c in ((*choices, *self.squeezes) if part == "width" else choices)}
            for name, value in spec.to_dict()[part].items():
                if name not in known:
                    what = f"nothing with a {part} to choose is called {name!r}"
                    raise RecipeError(what, where="spec", hint=nearest(name, known))
                if value not in known[name].values:
                    raise illegal(part, name, value, known[name].values)

    def effective(self, spec: Spec) -> Spec:
        """The spec without what is in blocks that it leaves out: equal for equal sub-networks."""
        gone = {block for choice in self.depths for block in _skipped(choice, spec)}
        chosen: list[KernelChoice | WidthChoice] = [*self.kernels, *self.widths, *self.squeezes]
        inside = {c.name for c in chosen if any(_within(c.block, block) for block in gone)}
        kernel, width = ({n: v for n, v in part.items() if n not in inside} for part in (spec.kernel, spec.width))
        return Spec(kernel, width, spec.depth)

    def cut(self, spec: Spec) -> Cut:
        """What a spec comes to in axes, kernels and layers.

        Raises:
            RecipeError: the spec does not fit.
        """
        self.check(spec)
        left = self.effective(spec)
        units: dict[str, int] = {}
        kernels: dict[str, int] = {}
        for width in self.widths:
            channels = left.width.get(width.name, width.values[0])
            if channels != width.values[0]:
                units.update({axis: channels // each for axis, each in width.axes})
                units.update({s.axis: s.units(channels) for s in width.squeezes})
        units.update({s.name: left.width[s.name] for s in self.squeezes if s.name in left.width})
        for kernel in self.kernels:
            size = left.kernel.get(kernel.name, kernel.values[0])
            if size != kernel.values[0]:
                kernels.update(dict.fromkeys(kernel.weights, size))
        skipped = dict(depth.layers[block] for depth in self.depths for block in _skipped(depth, spec))
        return Cut(units, kernels, skipped)


def _draw(count: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(count, (), generator=generator))


def _skipped(choice: DepthChoice, spec: Spec) -> tuple[str, ...]:
    return choice.blocks[spec.depth.get(choice.name, len(choice.blocks)) :]


def _within(path: str, block: str) -> bool:
    return path == block or path.startswith(f"{block}.")


def illegal(part: str, name: str, value: object, values: Sequence[int], where: str = "spec") -> RecipeError:
    """That a choice cannot have a value, and which it can have."""
    return RecipeError(f"the {part} of {name} cannot be {value}", where=where, why=f"legal: {listed(values)}")


def listed(values: Sequence[int]) -> str:
    """Values as text; many of them as their bounds."""
    if len(values) <= 12:
        return ", ".join(map(str, values))
    step = values[0] - values[1]
    if all(a - b == step for a, b in pairwise(values)):
        return f"{values[0]} down to {values[-1]}" + (f" in steps of {step}" if step > 1 else "")
    return f"{', '.join(map(str, values[:4]))}, ... {values[-1]} ({len(values)} in all)"


def divisible(value: float, by: int) -> int:
    """The nearest multiple, no less than one time, and no less than nine tenths of the value (Sandler et al. 2018)."""
    nearest_multiple = max(by, int(value + by / 2) // by * by)
    return nearest_multiple + by if nearest_multiple < 0.9 * value else nearest_multiple
