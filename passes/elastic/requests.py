"""What is asked for, in one number, a list or by name, as a spec of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from graphc.axes.axis import Axis, leaves, measure
from graphc.errors import RecipeError

from ..select import find
from .finding import channels_of, leading
from .space import Choice, DepthChoice, KernelChoice, Space, Spec, WidthChoice, illegal, listed
from .supernet import Supernet

Number = int | float
Asked = Number | Sequence[Number | None] | Mapping[str, Number] | None
"""One number is the most that any choice may have; a list has one for each, in graph order, None for as it is; a
mapping has them by name or pattern. Lists and mappings are taken to the letter."""

C = TypeVar("C", KernelChoice, WidthChoice, DepthChoice)
MOST_NAMES = 6


@dataclass(frozen=True)
class Request:
    """A sub-network as it is asked for.

    Attributes:
        kernel: sizes of the kernels of blocks; by name of any kernel.
        expand: inner channels of blocks as multiples of what enters them (of what leaves a bottleneck).
        width: channels between blocks, and of what is no block; by name of any width. An integer is a number of
            channels, a fraction a share of those that there are.
        depth: numbers of blocks of stages; by name also of other layers that can be stepped over.
        where: whose it is, for errors.
    """

    kernel: Asked = None
    expand: Asked = None
    width: Asked = None
    depth: Asked = None
    where: str = "slice-elastic"

    @property
    def empty(self) -> bool:
        """Is nothing asked for?"""
        return all(part is None for part in (self.kernel, self.expand, self.width, self.depth))


def spec_of(net: Supernet, space: Space, request: Request, round_to: int) -> Spec:
    """The spec that a request comes to.

    Args:
        net: the network.
        space: everything that is legal in it.
        request: what is asked for.
        round_to: numbers of channels that are computed are multiples of this.

    Raises:
        RecipeError: a name matches nothing, a list has the wrong length, or a value is not legal; says of what, and
            which values are.
    """
    reader = _Reader(net, space, request, round_to)
    widths = reader.widths()
    both = widths.keys() & (expanded := reader.expanded(widths)).keys()
    if both:
        why = f"`width` and `expand` both say how wide {min(both)} is"
        raise RecipeError("two widths for one block", where=request.where, why=why)
    return Spec(reader.kernels(), {**widths, **expanded}, reader.depths())


class _Reader:
    def __init__(self, net: Supernet, space: Space, request: Request, round_to: int) -> None:
        self.net, self.space, self.request, self.round_to = net, space, request, round_to
        self.axes = {axis.name: axis for axis in net.analysis.axes}

    def kernels(self) -> dict[str, int]:
        every = self.space.kernels
        asked = self._asked("kernel", self.request.kernel, leading(every), every, lambda c: [c.name, *c.weights])
        return {c.name: self._legal("kernel", c, value) for c, value in asked}

    def depths(self) -> dict[str, int]:
        every = self.space.depths
        stages = [c for c in every if c.blocks[0] not in {layer.name for layer in self.net.stem}]
        asked = self._asked("depth", self.request.depth, stages, every, lambda c: [c.name, *c.blocks])
        return {c.name: self._legal("depth", c, value) for c, value in asked}

    def widths(self) -> dict[str, int]:
        """Channels between blocks, and others that are named."""
        every = (*self.space.widths, *self.space.squeezes)
        streams = [c for c in self.space.widths if not c.block]
        asked = self._asked("width", self.request.width, streams, every, _width_names, self._channels)
        return {c.name: self._legal("width", c, value) for c, value in asked}

    def expanded(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Inner channels of blocks, from those that are left around them."""
        inner = [c for c in self.space.widths if c.block]
        sizes = {
            axis: n for c in self.space.widths if not c.block and c.name in widths for axis, n in self._cut(c, widths)
        }
        bases = {block.name: measure(block.base, sizes) for block in self.net.blocks if block.base is not None}

        def number(choice: WidthChoice, ratio: Number) -> int:
            return channels_of(choice, bases[choice.block] * ratio, self.round_to)

        asked = self._asked("expand", self.request.expand, inner, inner, _width_names, number)
        found: dict[str, int] = {}
        for choice, channels in asked:
            if channels not in choice.values:
                base = bases[choice.block]
                why = f"of {base} channels that is {channels}; legal: {listed(choice.values)} channels"
                hint = f"give a ratio of at most {choice.values[0] / base:.4g}"
                raise RecipeError(
                    f"{choice.name} cannot be expanded so much", where=self.request.where, why=why, hint=hint
                )
            found[choice.name] = channels
        return found

    def _cut(self, choice: WidthChoice, widths: Mapping[str, int]) -> Iterable[tuple[Axis, int]]:
        return [(leaf, widths[choice.name]) for name, _ in choice.axes for leaf in leaves(self.axes[name])]

    def _channels(self, choice: WidthChoice, value: Number) -> int:
        if isinstance(value, int):
            return value
        return channels_of(choice, choice.values[0] * value, self.round_to)

    def _legal(self, part: str, choice: Choice, value: int) -> int:
        if value not in choice.values:
            raise illegal(part, choice.name, value, choice.values, self.request.where)
        return value

    def _asked(
        self,
        part: str,
        asked: Asked,
        leading: Sequence[C],
        every: Sequence[C],
        names: Callable[[C], Iterable[str]],
        number: Callable[[C, Number], int] = lambda choice, value: value,  # type: ignore[assignment,return-value]
    ) -> list[tuple[C, int]]:
        """What is asked of each choice, as a number that it may have or not."""
        where = f"{part} of {self.request.where}"
        if asked is None:
            return []
        if not every:
            raise RecipeError(f"nothing has a {part} to choose", where=where, hint="name the blocks in `blocks`")
        if isinstance(asked, Mapping):
            found: dict[str, tuple[C, int]] = {}
            for key, value in asked.items():
                own = [c for c in every if c.name == key]
                found.update({c.name: (c, number(c, value)) for c in own or find(every, names, key, where)})
            return list(found.values())
        if isinstance(asked, (int, float)):
            return self._at_most(part, [(c, number(c, asked)) for c in leading], asked)
        if len(asked) != len(leading):
            names_of_all = [choice.name for choice in leading]
            shown = names_of_all[: MOST_NAMES - 1] + names_of_all[max(MOST_NAMES - 1, len(leading) - 1) :]
            raise RecipeError(
                f"{part} is a list of {len(asked)}, and there are {len(leading)} to choose",
                where=where,
                why=f"they are {', '.join(shown)}",
                hint="give one value for each, null for one that stays as it is, or give them by name",
            )
        return [(c, number(c, value)) for c, value in zip(leading, asked, strict=True) if value is not None]

    def _at_most(self, part: str, found: Sequence[tuple[C, int]], asked: Number) -> list[tuple[C, int]]:
        """Of those that are larger; none being as large as this is an error."""
        if not found:
            raise RecipeError(f"no {part} follows a number for all", where=self.request.where, hint="give it by name")
        if all(value > choice.values[0] for choice, value in found):
            most = max(choice.values[0] for choice, _ in found)
            raise RecipeError(
                f"no {part} is as large as {asked}", where=self.request.where, why=f"the largest is {most}"
            )
        return [(choice, value) for choice, value in found if value < choice.values[0]]


def _width_names(choice: WidthChoice) -> list[str]:
    return [choice.name, *(axis for axis, _ in choice.axes)]
