"""What of a network is elastic: its blocks, their stages, the channels between them, and squeeze branches.

All of it is read off the graph. A block is an innermost numbered module with channels of its own between two of its
layers: those between expansion and projection of an inverted residual, between the first and the last convolution of
a bottleneck, the heads and the inner width of a transformer layer. A stage is a run of blocks of one list; it starts
where a block cannot be stepped over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from graphc.axes.axis import Axis, factors, leaves
from graphc.coupling import Analysis, analyze
from graphc.coupling.regions import Layer, find_layers, own_tensors, stack_of
from graphc.errors import RecipeError
from graphc.ir.program import Program

from ..blocks import Block, find_blocks, outermost
from ..contractions import Contraction, contractions
from ..select import choose
from .kernels import Kernel, find_kernels
from .squeeze import SqueezeBranch, find_squeezes


@dataclass(frozen=True)
class Inner:
    """Channels of a block's own.

    Attributes:
        axis: what is cut of them: themselves; of channels in groups or heads the groups or heads.
        each: how many channels one unit of the axis has.
        taken: the last layer that takes them.
    """

    axis: Axis
    each: int
    taken: Contraction

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.axis.size * self.each


@dataclass(frozen=True)
class ElasticBlock:
    """A block whose kernels and inner channels can be chosen.

    Attributes:
        name: its module path.
        inner: its own channels, in graph order; none if it was named and has none.
        kernels: the weights of its largest convolutions: the depthwise ones, if there are any.
        others: the weights of its other kernels.
        before: the channels that enter the layer that makes the first of its own.
        after: the channels that the layer makes that takes the last of them.
    """

    name: str
    inner: tuple[Inner, ...]
    kernels: tuple[str, ...]
    others: tuple[str, ...]
    before: Axis | None
    after: Axis | None

    @property
    def base(self) -> Axis | None:
        """What an expand ratio is a multiple of: what enters, where the inner ones are more than that and than what
        leaves; else, in a bottleneck, what leaves."""
        widest = max((axis.size for axis in (self.before, self.after) if axis is not None), default=0)
        inverted = max((inner.channels for inner in self.inner), default=0) > widest
        return (self.before or self.after) if inverted else (self.after or self.before)


@dataclass(frozen=True)
class Stage:
    """Blocks, or layers that have some, that follow each other; the later ones can be left out.

    Attributes:
        names: their module paths.
        layers: of each the region that can be stepped over; None where it cannot.
    """

    names: tuple[str, ...]
    layers: tuple[Layer | None, ...]

    @property
    def name(self) -> str:
        """The first path, and the number that the last one ends in."""
        last = self.names[-1].removeprefix(stack_of(self.names[-1]))
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]}-{last}"

    @property
    def least(self) -> int:
        """How many it cannot do without: one, and all up to the last that cannot be stepped over."""
        return max([1, *(i for i, layer in enumerate(self.layers, 1) if layer is None)])


@dataclass(frozen=True)
class Supernet:
    """What can be chosen in a program.

    Attributes:
        analysis: of the program.
        blocks: in graph order.
        stages: the blocks by stage.
        stem: layers before the first block that can be stepped over.
        streams: the channels between blocks, and of what is no block, in graph order.
        squeezes: branches that weigh channels.
        kernels: every kernel that is larger than one place, by weight.
        layers: every region that can be stepped over.
    """

    analysis: Analysis
    blocks: tuple[ElasticBlock, ...]
    stages: tuple[Stage, ...]
    stem: tuple[Layer, ...]
    streams: tuple[Axis, ...]
    squeezes: tuple[SqueezeBranch, ...]
    kernels: Mapping[str, Kernel]
    layers: tuple[Layer, ...]


def find_supernet(
    program: Program, named: Sequence[str] = (), sizes: Sequence[int] = (), matrices: bool | None = None
) -> Supernet:
    """Read off a program what is elastic.

    Args:
        program: what to look through.
        named: names or patterns of the blocks; all that have channels of their own by default.
        sizes: how many blocks each stage has; found by default.
        matrices: False leaves kernel transformation matrices out.

    Raises:
        RecipeError: a name matches nothing, or the sizes of stages do not add up.
    """
    finder = _Finder(analyze(program), find_kernels(program, matrices))
    layers = find_layers(finder.analysis)
    blocks = finder.blocks(named)
    stem = _stem(layers, blocks, finder.analysis)
    streams = finder.streams(blocks)
    stages = _stages(blocks, layers, sizes)
    return Supernet(finder.analysis, blocks, stages, stem, streams, finder.squeezes, finder.kernels, tuple(layers))


class _Finder:
    """Looks for blocks and for the channels between them."""

    def __init__(self, analysis: Analysis, kernels: Mapping[str, Kernel]) -> None:
        self.analysis = analysis
        self.kernels = kernels
        self.places = tuple(contractions(analysis.program))
        self.squeezes = find_squeezes(analysis, self.places)
        self.made = {leaf for place in self.places for axis in self._makes(place) for leaf in leaves(axis)}

    def _takes(self, place: Contraction) -> Axis | None:
        """What a layer sums over, of all its groups."""
        layout = self.analysis.values[place.data]
        axis = layout[place.data_dim] if isinstance(layout, tuple) else None
        return axis.root() if isinstance(axis, Axis) else None

    def _makes(self, place: Contraction) -> list[Axis]:
        """The dims of a layer's weight that it does not sum over."""
        layout = self.analysis.tensors[place.weight]
        dim = place.dim % len(layout)
        return [axis.root() for i, axis in enumerate(layout) if i != dim and axis is not None]

    def blocks(self, named: Sequence[str]) -> tuple[ElasticBlock, ...]:
        """Innermost numbered modules that have channels of their own, or those that are named."""
        regions = find_blocks(self.analysis)
        if named:
            regions = outermost(choose(regions, lambda block: [block.name], named, (), "the elastic blocks"))
            return tuple(self._block(region) for region in regions)
        found = [block for block in map(self._block, regions) if block.inner]
        outer = {b.name for b in found if any(other.name.startswith(f"{b.name}.") for other in found)}
        return tuple(block for block in found if block.name not in outer)

    def _block(self, region: Block) -> ElasticBlock:
        gates = frozenset(node for squeeze in self.squeezes for node in squeeze.nodes)
        places = [place for place in self.places if place.node in region.nodes - gates]
        own = set(own_tensors(set(region.nodes)))
        inner = self._inner(places, own)
        inside = [self.kernels[p.weight] for p in places if p.weight in self.kernels]
        main = [k for k in inside if k.depthwise] or inside
        largest = max((kernel.size for kernel in main), default=0)
        weights = dict.fromkeys(kernel.weight for kernel in main if kernel.size == largest)
        others = dict.fromkeys(kernel.weight for kernel in inside if kernel.weight not in weights)
        return ElasticBlock(region.name, inner, tuple(weights), tuple(others), *self._around(places, inner))

    def _inner(self, places: Sequence[Contraction], own: set[str]) -> tuple[Inner, ...]:
        """Channels that one layer makes and another takes, whole groups or heads of them where there are some."""
        found: dict[Axis, Inner] = {}
        for place in places:
            taken = self._takes(place)
            first = factors(taken)[0] if taken is not None else None
            if taken is None or first is None or not _free(first) or first not in self.made:
                continue
            if all(name in own for name, _ in first.members):
                found[first] = Inner(first, taken.size // first.size, place)
        order = {axis: i for i, axis in enumerate(self.analysis.axes)}
        return tuple(sorted(found.values(), key=lambda inner: order[inner.axis]))

    def _around(self, places: Sequence[Contraction], inner: Sequence[Inner]) -> tuple[Axis | None, Axis | None]:
        """The channels that enter, and those that leave."""
        if not inner:
            return None, None
        first = next(p for p in places if any(inner[0].axis in leaves(axis) for axis in self._makes(p)))
        return self._takes(first), next(iter(self._makes(inner[-1].taken)), None)

    def streams(self, blocks: Sequence[ElasticBlock]) -> tuple[Axis, ...]:
        """Free channels that some layer makes and that are no block's own."""
        inner = {leaf for block in blocks for i in block.inner for leaf in leaves(self._takes(i.taken) or i.axis)}
        inner |= {squeeze.axis for squeeze in self.squeezes}
        return tuple(a for a in self.analysis.axes if _free(a) and a in self.made and a not in inner)


def _free(axis: Axis) -> bool:
    return axis.kind == "leaf" and axis.pinned is None and not axis.mixed


def _stages(blocks: Sequence[ElasticBlock], layers: Sequence[Layer], sizes: Sequence[int]) -> tuple[Stage, ...]:
    steps = {
        block.name: next((x for x in layers if f"{block.name}.".startswith(f"{x.name}.")), None) for block in blocks
    }
    units = {step.name if step is not None else name: step for name, step in steps.items()}
    groups: list[list[str]] = []
    if sizes:
        if sum(sizes) != len(units):
            raise RecipeError(
                f"the stages have {sum(sizes)} blocks, and the network has {len(units)}",
                where="stages",
                why=f"its blocks are {', '.join(units)}",
                hint="say in `blocks` which modules are blocks, or let both be found",
            )
        names = iter(units)
        groups = [[next(names) for _ in range(size)] for size in sizes]
    else:
        for name, step in units.items():
            if not groups or step is None or stack_of(name) != stack_of(groups[-1][-1]):
                groups.append([])
            groups[-1].append(name)
    return tuple(Stage(tuple(group), tuple(units[name] for name in group)) for group in groups)


def _stem(layers: Sequence[Layer], blocks: Sequence[ElasticBlock], analysis: Analysis) -> tuple[Layer, ...]:
    """Layers that stand before the first block, and in another list."""
    inner = next((block.inner[0] for block in blocks if block.inner), None)
    if inner is None:
        return ()
    order: dict[Node, int] = {node: i for i, node in enumerate(analysis.program.graph.nodes)}
    tensors = {str(node.target): node for node in order if node.op == "get_attr"}
    start = min(order[user] for name, _ in inner.axis.members for user in tensors[name].users)
    stack = stack_of(blocks[0].name)
    return tuple(layer for layer in layers if order[layer.exit] < start and layer.stack != stack)
