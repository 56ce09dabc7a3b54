"""Sub-networks whose blocks are written stage by stage: AttentiveNAS and BigNAS, and mmrazor's fix_subnet files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphc.axes.axis import Axis
from graphc.errors import RecipeError

from .requests import Request
from .space import divisible
from .supernet import ElasticBlock, Stage, Supernet

ENTRY = re.compile(r"(?:.*\.)?layers\.(\d+)(?:\.(\d+))?\.(kernel_size|expand_ratio|expand_ratio_se|depth|out_channels)")
ENDS = re.compile(r"(?:.*\.)?(first_channels|last_channels)")


@dataclass
class Record:
    """One stage: values for all its blocks, or by the number of the block."""

    depth: int | None = None
    out_channels: int | None = None
    kernel_size: dict[int | None, int] = field(default_factory=dict)
    expand_ratio: dict[int | None, float] = field(default_factory=dict)
    expand_ratio_se: dict[int | None, float] = field(default_factory=dict)


def mmrazor(values: Mapping[str, Any], net: Supernet, where: str) -> Request:
    """What is chosen of mmrazor's mutables, by their paths: ``backbone.layers.2.0.kernel_size``.

    Raises:
        RecipeError: a path is of no such mutable, or the stages are not those of the network.
    """
    records: dict[int, Record] = {}
    ends: dict[str, int] = {}
    for path, value in values.items():
        entry, end = ENTRY.fullmatch(path), ENDS.fullmatch(path)
        if end is not None:
            ends[end[1]] = value
        elif entry is not None and (entry[2] is None or entry[3] not in ("depth", "out_channels")):
            record = records.setdefault(int(entry[1]), Record())
            if entry[3] in ("depth", "out_channels"):
                setattr(record, entry[3], value)
            else:
                getattr(record, entry[3])[None if entry[2] is None else int(entry[2])] = value
        else:
            hint = "read are first_channels, last_channels and layers.N[.M] with kernel_size, expand_ratio, "
            raise RecipeError(
                f"{path!r} cannot be read", where=where, hint=hint + "expand_ratio_se, depth, out_channels"
            )
    ordered = [records[number] for number in sorted(records)]
    return _request(ordered, ends.get("first_channels"), ends.get("last_channels"), net, where)


def attentive(values: Mapping[str, Any], net: Supernet, where: str) -> Request:
    """Wang et al. 2021: one value a stage; widths also for the first and the last convolution.

    Raises:
        RecipeError: the lists differ in length, or the stages are not those of the network.
    """
    parts = {key: values[key] for key in ("kernel_size", "expand_ratio", "depth") if key in values}
    width = list(values.get("width", ()))
    lengths = {key: len(part) for key, part in parts.items()} | ({"width": len(width) - 2} if width else {})
    if len(set(lengths.values())) != 1:
        why = f"stages: {', '.join(f'{n} in {key}' for key, n in lengths.items())}; width has two values more"
        raise RecipeError("the lists of the config differ in length", where=where, why=why)
    records = [
        Record(
            parts["depth"][i] if "depth" in parts else None,
            width[i + 1] if width else None,
            {None: parts["kernel_size"][i]} if "kernel_size" in parts else {},
            {None: parts["expand_ratio"][i]} if "expand_ratio" in parts else {},
        )
        for i in range(next(iter(lengths.values())))
    ]
    return _request(records, width[0] if width else None, width[-1] if width else None, net, where)


def _request(records: Sequence[Record], first: int | None, last: int | None, net: Supernet, where: str) -> Request:
    """By the names of the network's blocks, stages and axes."""
    widths = _Widths(net, where)
    first_stage, rest = _matched(records, net, where)
    kernel: dict[str, int] = {}
    expand: dict[str, float] = {}
    if first is not None:
        widths.put(net.streams[0], first)
    if first_stage is not None and first_stage.out_channels is not None:
        widths.put(net.blocks[0].before, first_stage.out_channels)
    for record, stage in zip(rest, net.stages, strict=True):
        for i, block in enumerate(_inside(net, stage)):
            if record.out_channels is not None:
                widths.put(block.after, record.out_channels)
            kernel.update(_of(record.kernel_size, i, block.name) if block.kernels else {})
            expand.update(_of(record.expand_ratio, i, block.name) if block.inner else {})
            for ratio in _of(record.expand_ratio_se, i, block.name).values():
                widths.squeeze(block, ratio)
    if last is not None:
        widths.put(net.streams[-1], last)
        widths.keep_ratios()
    depth = {s.name: r.depth for r, s in zip(rest, net.stages, strict=True) if r.depth is not None}
    return Request(kernel or None, expand or None, widths.found or None, depth or None, where)


def _inside(net: Supernet, stage: Stage) -> list[ElasticBlock]:
    return [b for name in stage.names for b in net.blocks if f"{b.name}.".startswith(f"{name}.")]


def _of(values: Mapping[int | None, Any], number: int, name: str) -> dict[str, Any]:
    """By the block's number, or what all blocks have."""
    value = values.get(number, values.get(None))
    return {} if value is None else {name: value}


def _matched(records: Sequence[Record], net: Supernet, where: str) -> tuple[Record | None, Sequence[Record]]:
    """The records of the network's stages; a first stage that does not expand has no inner channels, and is none."""
    first, rest = (records[0], records[1:]) if len(records) == 1 + len(net.stages) else (None, records)
    if first is not None:
        expands = set(first.expand_ratio.values()) - {1}
        if expands or first.depth not in (None, 1):
            why = "the network has one stage less, and so the config's first one must be a block that expands nothing"
            raise RecipeError("the first stage of the config is none of the network", where=where, why=why)
    if len(rest) != len(net.stages):
        why = f"the network's are {', '.join(stage.name for stage in net.stages)}"
        raise RecipeError(f"the config has {len(records)} stages, the network {len(net.stages)}", where=where, why=why)
    return first, rest


class _Widths:
    """Numbers of channels by the names of axes."""

    def __init__(self, net: Supernet, where: str) -> None:
        self.net, self.where = net, where
        self.found: dict[str, int] = {}

    def put(self, axis: Axis | None, channels: int) -> None:
        """Channels of an axis; of one that cannot be cut, what it has.

        Raises:
            RecipeError: it cannot have so many, or is to have another number as well.
        """
        if axis is None:
            return
        if axis not in self.net.streams and axis.size != channels:
            what = f"{axis.name or 'a width'} cannot be {channels}"
            raise RecipeError(what, where=self.where, why=f"it is {axis.size}, and is not free to be cut")
        if axis in self.net.streams and self.found.setdefault(axis.name, channels) != channels:
            why = f"the config says both {self.found[axis.name]} and {channels} of what is one axis"
            raise RecipeError(f"{axis.name} cannot have two widths", where=self.where, why=why)

    def squeeze(self, block: ElasticBlock, ratio: float) -> None:
        """Inner channels of a block's squeeze branch: a quarter of as many as so wide a block had."""
        entering = self._now(block.before)
        for branch in self.net.squeezes:
            if any(branch.of is inner.axis for inner in block.inner):
                self.found[branch.axis.name] = divisible(int(entering * ratio) // 4, 8)

    def keep_ratios(self) -> None:
        """What is between the last block and the last layer is as many times the last block's as it was."""
        after = self.net.blocks[-1].after
        if after not in self.net.streams:
            return
        for axis in self.net.streams[self.net.streams.index(after) + 1 : -1]:
            if axis.size % after.size == 0:
                self.put(axis, axis.size // after.size * self._now(after))

    def _now(self, axis: Axis | None) -> int:
        return 0 if axis is None else self.found.get(axis.name, axis.size)
