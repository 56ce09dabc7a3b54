"""slice-elastic: one sub-network of a supernet, or of any network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graphc.errors import GraphError, RecipeError
from graphc.ir.program import Program
from graphc.pipeline.base import Context, Pass

from ..options import Names
from .configs import read_config
from .finding import find_space, whole_space
from .requests import Request, spec_of
from .sorting import importance_order
from .space import Space, Spec
from .subnetwork import subnetwork
from .supernet import Supernet, find_supernet

Whole = Annotated[int, Field(ge=0)]
Ratio = Annotated[float, Field(gt=0)]
Channels = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]
OneOrMore = "One number is the most that any has; a list has one for each; {name or re:pattern: number} is by name."


@dataclass(frozen=True, kw_only=True)
class SliceElastic(Pass):
    """Cut out a sub-network: kernels to their middle, channels to their first ones, stages to their first blocks.

    The network is a supernet at its largest (Cai et al. 2020, Once-for-All), or any other one. Blocks, stages and
    kernel transformation matrices are found in its graph. Padding, groups and squeeze branches follow. A supernet's
    batch norms have statistics of its largest network: recalibrate them afterwards.
    """

    type: ClassVar[str] = "slice-elastic"
    kernel: Annotated[
        Whole | tuple[Whole | None, ...] | dict[str, Whole] | None,
        Field(description=f"Sizes of the kernels of blocks; by name of any kernel. {OneOrMore}"),
    ] = None
    expand: Annotated[
        Ratio | tuple[Ratio | None, ...] | dict[str, Ratio] | None,
        Field(description="Inner channels of blocks, as multiples of what enters them (of what leaves a bottleneck)."),
    ] = None
    width: Annotated[
        Channels | tuple[Channels | None, ...] | dict[str, Channels] | None,
        Field(description="Channels between blocks; by name of any block or axis. An integer counts, 0.5 is a share."),
    ] = None
    depth: Annotated[
        Whole | tuple[Whole | None, ...] | dict[str, Whole] | None,
        Field(description="Numbers of blocks of stages; by name also of other layers that can be stepped over."),
    ] = None
    config: Annotated[
        str | dict[str, Any] | None,
        Field(description="Instead, as other projects write it, or the file: Once-for-All, AttentiveNAS, mmrazor."),
    ] = None
    sort: Annotated[
        bool, Field(description="First put inner channels in the order of their importance; the function stays.")
    ] = False
    matrices: Annotated[
        bool | None, Field(description="Use kernel transformation matrices: by default if there are some.")
    ] = None
    blocks: Annotated[Names, Field(description="Which modules are blocks; found by default.")] = ()
    stages: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(description="Numbers of blocks of stages; found by default.")
    ] = ()
    round_to: Annotated[int, Field(ge=1, description="Computed numbers of channels are multiples of this.")] = 8

    def __post_init__(self) -> None:
        """Check the options, and that a sub-network is asked for in one way."""
        super().__post_init__()
        asked = not self.request().empty
        if asked == (self.config is not None) and (asked or not self.sort):
            what = "slice-elastic needs one of config and {kernel, expand, width, depth}"
            raise RecipeError(what, where=f"pass {self.title}", hint=self.help())

    def request(self) -> Request:
        """What the options ask for."""
        return Request(self.kernel, self.expand, self.width, self.depth, f"pass {self.title}")

    def find(self, program: Program) -> tuple[Supernet, Space, Spec]:
        """The network, all that is legal in it, and what is chosen.

        Raises:
            GraphError: matrices are asked for, and there are none.
            RecipeError: what is asked for does not fit the network.
        """
        where = f"pass {self.title}"
        net = find_supernet(program, self.blocks, self.stages, self.matrices)
        if self.matrices and not any(kernel.matrices for kernel in net.kernels.values()):
            why = (
                f"none of the {len(program.unused)} parameters that the program does not read is square and of a kernel"
            )
            raise GraphError("there are no kernel transformation matrices", where=where, why=why)
        space = whole_space(net)
        request = self.request() if self.config is None else read_config(self.config, net, where)
        return net, space, spec_of(net, space, request, self.round_to)

    def offers(self, program: Program) -> Mapping[str, Any]:
        """Kernels, widths and depths by name, and blocks that can have any ``expand``."""
        how: dict[str, Any] = {"blocks": self.blocks, "stages": self.stages, "matrices": self.matrices}
        space = find_space(program, **how, round_to=self.round_to)
        by_name = {part: {c.name: list(c.values) for c in choices} for part, choices in space.parts()}
        return {**by_name, "expand": {c.name: None for c in space.widths if c.block}}

    def requires(self, program: Program) -> None:
        """What is asked for fits the network."""
        self.find(program)

    def run(self, program: Program, context: Context) -> Program:
        """Slice channels, then kernels, then step over blocks."""
        net, space, spec = self.find(program)
        return subnetwork(program, space, spec, importance_order(net) if self.sort else None)

    def ensures(self, before: Program, after: Program) -> None:
        """Kernels and channels have the sizes asked for, and blocks that were left out have no tensors."""
        net, space, spec = self.find(before)
        cut, left = space.cut(spec), after.tensors()
        axes = {axis.name: axis for axis in net.analysis.axes}
        gone = [layer for layer in net.layers if layer.exit.name in cut.skipped and left.keys() & set(layer.tensors)]
        large = [w for w, size in cut.kernels.items() if w in left and max(left[w].shape[2:]) > size]
        wide = [
            name
            for axis, units in cut.units.items()
            for name, dim in axes[axis].members
            if name in left and units < axes[axis].size and left[name].shape[dim] == before.tensors()[name].shape[dim]
        ]
        for names, what in ((gone, "is still there"), (large, "is as large as it was"), (wide, "is as wide as it was")):
            if names:
                raise GraphError(f"{getattr(names[0], 'name', names[0])} {what}", where=f"pass {self.title}")

    def facts(self, before: Program, after: Program) -> Mapping[str, Any]:
        """The sub-network by the names of its choices."""
        _, space, spec = self.find(before)
        left = space.effective(spec)
        says = [
            f"{part}: {', '.join(f'{name} {value}' for name, value in values.items())}"
            for part, values in left.to_dict().items()
            if values
        ]
        return {"spec": left.to_dict(), "says": says}
