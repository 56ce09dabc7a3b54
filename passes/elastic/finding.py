"""The space of sub-networks of a program, read off its graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from graphc.axes.axis import Axis
from graphc.errors import GraphError, RecipeError
from graphc.ir.program import Program

from .kernels import Kernel
from .space import Choice, DepthChoice, KernelChoice, Space, Squeeze, WidthChoice, divisible, listed
from .squeeze import rule_of
from .supernet import ElasticBlock, Inner, Stage, Supernet, find_supernet

C = TypeVar("C", KernelChoice, WidthChoice, DepthChoice)
SMALLEST_KERNEL = 3
"""No smaller kernel is chosen unless it is asked for."""


def find_space(
    program: Program,
    kernel: Sequence[int] | None = None,
    expand: Sequence[float] | None = None,
    inner: Sequence[float] | None = None,
    width: Sequence[float] | None = None,
    depth: Sequence[int] | None = None,
    blocks: Sequence[str] = (),
    stages: Sequence[int] = (),
    matrices: bool | None = None,
    round_to: int = 8,
) -> Space:
    """Which sub-networks a program has: of blocks that it finds, or of a plain network as a whole.

    What a choice has now is always among its values; () leaves all choices of a kind at that.

    Args:
        program: a supernet at its largest, or any network.
        kernel: sizes of the largest kernels of blocks, or of all kernels where there is no block; by default every
            legal one from 3.
        expand: inner channels of blocks, as multiples of those that enter them (of those that leave a bottleneck).
        inner: inner channels of blocks as shares of what they have; by default, without ``expand``, every legal number.
        width: channels between blocks, and of what is no block, as shares of what they have; by default none are cut
            where there are blocks, and every legal number is possible where there are none.
        depth: numbers of blocks of stages; by default every legal one.
        blocks: names or patterns of the blocks; all that have channels of their own by default.
        stages: how many blocks each stage has; found by default.
        matrices: False leaves kernel transformation matrices out.
        round_to: numbers of channels are multiples of this.

    Raises:
        GraphError: nothing can be chosen.
        RecipeError: no choice can have a value that is asked for, a name matches nothing, or stages do not add up.
    """
    net = find_supernet(program, blocks, stages, matrices)
    every = whole_space(net)
    bases = {block.name: block.base.size for block in net.blocks if block.base is not None}
    between = () if width is None and net.blocks else width
    kernels = [_limited(c, _sizes(c, kernel)) for c in leading(every.kernels)]
    inside = [_limited(c, _expanded(c, bases[c.block], expand, inner, round_to)) for c in every.widths if c.block]
    streams = [_limited(c, _shares(c, between, round_to)) for c in every.widths if not c.block]
    depths = [_limited(c, c.values if depth is None else depth) for c in every.depths]
    _check_asked("kernel", kernel or (), every.kernels)
    _check_asked("depth", depth or (), every.depths)
    return _elastic(every, kernels, [*inside, *streams], depths)


def _elastic(
    every: Space, kernels: Sequence[KernelChoice], widths: Sequence[WidthChoice], depths: Sequence[DepthChoice]
) -> Space:
    """Of some choices those that there are.

    Raises:
        GraphError: there are none.
    """
    space = Space(_several(kernels), _several(widths), _several(depths))
    if space.count == 1:
        raise GraphError(
            "the program has no sub-networks of this space",
            where="find_space",
            why=f"it has {len(every.kernels)} kernels, {len(every.widths)} widths and {len(every.depths)} stages, "
            "and none of the values that are asked for is smaller than what it has",
            hint="ask for smaller values, or name the blocks",
        )
    return space


def _several(choices: Iterable[C]) -> tuple[C, ...]:
    return tuple(choice for choice in choices if len(choice.values) > 1)


def leading(choices: Sequence[KernelChoice]) -> list[KernelChoice]:
    """The kernels that blocks are known by; all kernels where there is no block."""
    return [c for c in choices if c.block == c.name] or list(choices)


def whole_space(net: Supernet) -> Space:
    """Every legal value of all that can be chosen."""
    return Space(tuple(_kernels(net)), tuple(_widths(net)), tuple(_depths(net)))


def _kernels(net: Supernet) -> Iterable[KernelChoice]:
    inside: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for block in net.blocks:
        inside.update(dict.fromkeys(block.kernels, (block.name, block.name, block.kernels)))
        inside.update({weight: (_module(weight), block.name, (weight,)) for weight in block.others})
    done: set[str] = set()
    for weight in net.kernels:
        name, within, weights = inside.get(weight, (_module(weight), "", (weight,)))
        if weight not in done:
            done.update(weights)
            kernels = [net.kernels[w] for w in weights]
            yield KernelChoice(name, _legal(kernels), weights, {k.weight: k.matrices for k in kernels}, within)


def _module(weight: str) -> str:
    return weight.rpartition(".")[0] or weight


def _legal(kernels: Sequence[Kernel]) -> tuple[int, ...]:
    return tuple(size for size in kernels[0].legal() if all(size in kernel.legal() for kernel in kernels))


def _widths(net: Supernet) -> Iterable[WidthChoice]:
    rule = rule_of(net.squeezes)
    for block in net.blocks:
        groups = _by_size(block)
        for group in groups:
            each = max(inner.each for inner in group)
            name = block.name if len(groups) == 1 else group[0].axis.name
            axes = tuple((inner.axis.name, inner.each) for inner in group)
            squeezes = _squeezes(net, [inner.axis for inner in group], rule)
            yield WidthChoice(name, range(group[0].channels, 0, -each), axes, squeezes, block.name)
    for axis in net.streams:
        yield WidthChoice(axis.name, range(axis.size, 0, -1), ((axis.name, 1),), _squeezes(net, [axis], rule))


def _by_size(block: ElasticBlock) -> list[list[Inner]]:
    """Inner channels of a block that are as many become fewer together."""
    groups: dict[int, list[Inner]] = {}
    for inner in block.inner:
        groups.setdefault(inner.channels, []).append(inner)
    return list(groups.values())


def _squeezes(net: Supernet, axes: Sequence[Axis], rule: tuple[int, int] | None) -> tuple[Squeeze, ...]:
    if rule is None:
        return ()
    return tuple(Squeeze(s.axis.name, s.axis.size, *rule) for s in net.squeezes if s.of in axes)


def _depths(net: Supernet) -> Iterable[DepthChoice]:
    for layer in net.stem:
        steps = {layer.name: (layer.exit.name, layer.entry.name)}
        yield DepthChoice(layer.name, (1, 0), (layer.name,), steps)
    for stage in net.stages:
        yield DepthChoice(stage.name, range(len(stage.names), stage.least - 1, -1), stage.names, _steps(stage))


def _steps(stage: Stage) -> dict[str, tuple[str, str]]:
    left = zip(stage.names[stage.least :], stage.layers[stage.least :], strict=True)
    return {name: (layer.exit.name, layer.entry.name) for name, layer in left if layer is not None}


def _sizes(choice: KernelChoice, wanted: Sequence[int] | None) -> list[int]:
    return [n for n in choice.values if (n >= SMALLEST_KERNEL if wanted is None else n in wanted)]


def _expanded(
    choice: WidthChoice, base: int, expand: Sequence[float] | None, inner: Sequence[float] | None, round_to: int
) -> list[int]:
    if expand is None:
        return _shares(choice, inner, round_to)
    return [channels_of(choice, base * ratio, round_to) for ratio in expand]


def _shares(choice: WidthChoice, shares: Sequence[float] | None, round_to: int) -> list[int]:
    if shares is None:
        return [n for n in choice.values if n % round_to == 0]
    return [channels_of(choice, choice.values[0] * share, round_to) for share in shares]


def channels_of(choice: WidthChoice, wanted: float, round_to: int) -> int:
    """A number of channels, rounded; it is as it is where it is what there are now."""
    number = round(wanted)
    return number if number == choice.values[0] else divisible(number, round_to)


def _limited(choice: C, values: Iterable[int]) -> C:
    """The choice with those of some values that are legal, and with what it has."""
    left = sorted({choice.values[0], *(n for n in values if n in choice.values)}, reverse=True)
    return replace(choice, values=tuple(left))


def _check_asked(what: str, wanted: Iterable[int], choices: Sequence[Choice]) -> None:
    known = {value for choice in choices for value in choice.values}
    for value in wanted:
        if value not in known:
            why = f"legal: {listed(sorted(known, reverse=True))}" if known else "there is none"
            raise RecipeError(f"no {what} can be {value}", where=what, why=why)
