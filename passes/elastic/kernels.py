"""Kernels cut to their middle: of convolutions of any rank, with the padding that goes with it.

A supernet may have trained matrices that turn the middle of a larger kernel into a smaller one (Cai et al. 2020,
Once-for-All). Its largest network does not read them, so they are among the program's unused parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.errors import GraphError, nearest
from graphc.ir.edit import rebuild
from graphc.ir.graph import source_line
from graphc.ir.program import Program
from graphc.ir.resizing import Resizing
from graphc.ir.text import operator_name

from ..contractions import parameter_of

aten = torch.ops.aten
WEIGHT, PADDING = 1, 4
DILATION: dict[Any, int] = {
    **{getattr(aten, f"conv{n}d").default: 5 for n in (1, 2, 3)},
    **{getattr(aten, f"conv{n}d").padding: 5 for n in (1, 2, 3)},
    aten.conv_transpose1d.default: 7,
    aten.conv_transpose2d.input: 7,
    aten.conv_transpose3d.input: 7,
    aten.convolution.default: 5,
}
"""Convolutions, and where their dilation stands."""


@dataclass(frozen=True)
class Kernel:
    """A weight of one convolution or more that has a kernel larger than one place.

    Attributes:
        weight: name of the parameter.
        sizes: of the kernel, along each spatial dim.
        nodes: the convolutions that read it.
        depthwise: has each channel a kernel of its own?
        matrices: for each smaller size the unused parameter that makes it of the next larger one.
        obstacle: why it cannot be cut; empty if it can.
    """

    weight: str
    sizes: tuple[int, ...]
    nodes: tuple[Node, ...]
    depthwise: bool
    matrices: Mapping[int, str]
    obstacle: str = ""

    @property
    def size(self) -> int:
        """Along its longest dim."""
        return max(self.sizes)

    @property
    def where(self) -> str:
        """For errors."""
        line = source_line(self.nodes[0])
        return f"{self.weight}{', ' + line if line else ''}"

    def cut(self, size: int) -> tuple[int, ...]:
        """The sizes of a smaller kernel: no dim is longer than this."""
        return tuple(min(old, size) for old in self.sizes)

    def legal(self) -> list[int]:
        """The sizes that it can be cut to, and its own, from the largest."""
        sizes = range(self.size, 0, -1) if not self.matrices else [self.size, *sorted(self.matrices, reverse=True)]
        return [size for size in sizes if not self.misfit(size)]

    def misfit(self, size: int) -> str:
        """Why it cannot have this size; empty if it can."""
        if size == self.size:
            return ""
        if self.obstacle:
            return self.obstacle
        if not 0 < size < self.size:
            return f"its kernel is {'x'.join(map(str, self.sizes))}"
        rings = [old - new for old, new in zip(self.sizes, self.cut(size), strict=True)]
        if any(ring % 2 for ring in rings):
            return "what is cut away must be as wide on one side as on the other"
        if self.matrices and size not in self.matrices:
            return f"its matrices make {', '.join(map(str, sorted(self.matrices)))}"
        for node in self.nodes:
            if any(pad < 0 for pad in _padding(node, rings)):
                given = node.args[PADDING] if len(node.args) > PADDING else 0
                return f"{node.name} pads with {given}, which is too little"
        return ""


def find_kernels(program: Program, matrices: bool | None = None) -> dict[str, Kernel]:
    """All kernels of the program by the name of their weight, in graph order.

    Args:
        program: what to look through.
        matrices: False leaves transformation matrices out.
    """
    readers: dict[str, list[Node]] = {}
    for node in program.graph.nodes:
        if node.target in DILATION and isinstance(node.args[WEIGHT], Node):
            found = parameter_of(program.module, node.args[WEIGHT])
            if found is not None:
                readers.setdefault(found[0], []).append(node)
    tensors = program.tensors()
    readers = {name: nodes for name, nodes in readers.items() if max(tensors[name].shape[2:]) > 1}
    made: dict[str, Kernel] = {}
    for name, nodes in readers.items():
        shape = tuple(tensors[name].shape)
        maps = {} if matrices is False else _matrices(program, name, shape, list(readers))
        channels = nodes[0].args[0].meta["val"].shape[1]  # type: ignore[union-attr] # a node by the op's schema
        depthwise = shape[1] == 1 and shape[0] % channels == 0 and channels > 1
        made[name] = Kernel(name, shape[2:], tuple(nodes), depthwise, maps, _obstacle(program, name, nodes))
    return made


def _obstacle(program: Program, name: str, nodes: Sequence[Node]) -> str:
    for node in nodes:
        weight = node.args[WEIGHT]
        assert isinstance(weight, Node)
        if weight.op != "get_attr":
            return f"its weight is computed by {operator_name(weight)}; slice before weights are masked or quantised"
        other = next((user for user in weight.users if user not in nodes), None)
        if other is not None:
            return f"{other.name} reads its weight too"
    return ""


def _matrices(program: Program, weight: str, shape: Sequence[int], kernels: Sequence[str]) -> dict[int, str]:
    """Square matrices for flattened smaller kernels, in the nearest module that has some and no other kernel."""
    sizes = {size ** (len(shape) - 2): size for size in range(1, max(shape[2:]))} if len(set(shape[2:])) == 1 else {}
    parts = weight.split(".")
    for length in range(len(parts) - 1, -1, -1):
        path = ".".join(parts[:length])
        if sum(name.startswith(f"{path}." if path else "") for name in kernels) > 1:
            break
        found: dict[int, list[str]] = {}
        for name, value in program.unused.items():
            size = sizes.get(value.shape[0]) if value.dim() == 2 and value.shape[0] == value.shape[1] else None
            if size is not None and name.rpartition(".")[0] == path:
                found.setdefault(size, []).append(name)
        if found:
            return {size: _one(weight, size, names, [*found, max(shape[2:])]) for size, names in found.items()}
    return {}


def _one(weight: str, size: int, names: list[str], sizes: Sequence[int]) -> str:
    """Of several matrices for one size that which says that it starts at the next larger one."""
    larger = min(other for other in sizes if other > size)
    said = [name for name in names if re.search(rf"(^|\D){larger}\D+{size}(\D|$)", name.rpartition(".")[2])]
    left = names if len(names) == 1 else said
    if len(left) != 1:
        raise GraphError(
            f"several matrices make a kernel of {size}",
            where=weight,
            why=f"{', '.join(names)} have the same shape, and their names do not say which starts at {larger}",
            hint="with `matrices: false` the middle of the kernel is taken as it is",
        )
    return left[0]


def _padding(node: Node, rings: Sequence[int]) -> list[int]:
    """The padding when so much of the kernel is cut away; nothing for one that is only said to be the same."""
    padding, dilation = _numbers(node, PADDING, 0, rings), _numbers(node, DILATION[node.target], 1, rings)
    if padding == ["same"]:
        return []
    return [old - step * ring // 2 for old, step, ring in zip(padding, dilation, rings, strict=True)]


def _numbers(node: Node, place: int, default: int, rings: Sequence[int]) -> list[Any]:
    value: Any = node.args[place] if len(node.args) > place else default
    if isinstance(value, str):
        return ["same"] if value == "same" else [0] * len(rings)
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * len(rings) if len(values) == 1 else values


def smaller(weight: torch.Tensor, sizes: Sequence[int], matrices: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The middle of a kernel; with matrices from size to size, each time flattened and multiplied.

    Args:
        weight: of shape ``[a, b, *kernel]``.
        sizes: what is left along each spatial dim.
        matrices: by size, each of shape ``[size ** rank, size ** rank]``, rank being that of the kernel.
    """
    for size in sorted((s for s in matrices if s > max(sizes)), reverse=True):
        weight = _transformed(middle(weight, [size] * len(sizes)), matrices[size])
    weight = middle(weight, sizes)
    return _transformed(weight, matrices[max(sizes)]) if max(sizes) in matrices else weight.contiguous()


def middle(weight: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The middle of a kernel ``[a, b, *kernel]``, as a view; sizes are those of its spatial dims."""
    for dim, size in enumerate(sizes, 2):
        weight = weight.narrow(dim, (weight.shape[dim] - size) // 2, size)
    return weight


def _transformed(weight: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    flat = weight.reshape(-1, matrix.shape[0])
    return torch.nn.functional.linear(flat, matrix.to(flat.device, flat.dtype)).view(weight.shape)


def slice_kernels(
    program: Program, sizes: Mapping[str, int], matrices: Mapping[str, Mapping[int, str]] | None = None
) -> Program:
    """Cut kernels to their middle, and restate the padding.

    Args:
        program: stays as it is.
        sizes: by the name of the weight; no dim of its kernel is longer than this.
        matrices: by the name of the weight, for each smaller size the unused parameter that makes it.

    Raises:
        GraphError: there is no such kernel, or it cannot have this size.
    """
    kernels = find_kernels(program, matrices=False)
    tensors: dict[str, torch.Tensor] = {}
    paddings: dict[str, list[int]] = {}
    for name, size in sizes.items():
        kernel = _fitting(kernels, name, size)
        weight = program.tensors()[name]
        maps = {s: program.unused[matrix].detach() for s, matrix in (matrices or {}).get(name, {}).items()}
        value = smaller(weight.detach(), kernel.cut(size), maps)
        tensors[name] = torch.nn.Parameter(value, weight.requires_grad)
        rings = [old - new for old, new in zip(kernel.sizes, kernel.cut(size), strict=True)]
        paddings.update({node.name: _padding(node, rings) for node in kernel.nodes})

    def edit(graph: Graph) -> None:
        for node in graph.nodes:
            if paddings.get(node.name):
                _set_padding(node, paddings[node.name])

    return rebuild(program, edit, tensors=tensors, way=Resizing)


def _fitting(kernels: Mapping[str, Kernel], name: str, size: int) -> Kernel:
    if name not in kernels:
        raise GraphError(f"no convolution has a kernel {name!r}", hint=nearest(name, kernels))
    why = kernels[name].misfit(size)
    if why:
        raise GraphError(f"the kernel {name} cannot be {size}", where=kernels[name].where, why=why)
    return kernels[name]


def _set_padding(node: Node, padding: list[int]) -> None:
    defaults = [argument.default_value for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    node.args = (*node.args, *defaults[len(node.args) : PADDING + 1])
    node.update_arg(PADDING, padding)
