"""Blocks: the pieces that a runtime executes as one, each with a name by which a time can be looked up.

A block is an op and what follows it and is read by nothing else: normalisation by known statistics, pointwise ops
and moves, which runtimes fuse into it or run right behind it. Two blocks with one key are the same computation on
tensors of the same sizes; two with one family differ in the sizes of free axes alone, so that the time of one can be
interpolated from the others'.
"""

from __future__ import annotations

import math
import operator
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphc.axes.axis import Axis, Layout, leaves, measure
from graphc.coupling.cost import dynamic_sizes, one_sample
from graphc.coupling.flow import Analysis, analyze
from graphc.errors import GraphError, nearest
from graphc.ir.edit import constants
from graphc.ir.program import Program
from graphc.ir.specs import symbols_of
from graphc.ir.text import SHORT, operator_name
from graphc.rules.operation import hint
from graphc.rules.pointwise import is_pointwise

FOLLOWING = frozenset({torch.ops.aten.batch_norm.default, operator.getitem})
"""Ops that are neither pointwise nor moves, and yet run with what they read."""


class Numbers:
    """Sizes as numbers."""

    def __init__(self, program: Program, dims: Mapping[str, int]) -> None:
        self.dims = dims
        self.symbols = {s: dims[d] for s, d in symbols_of(program.graph, program.contract).items() if d in dims}

    def number(self, size: Any) -> int:
        """A symbolic size at these dims; one with a symbol that has no name is what it was in the example."""
        if isinstance(size, int):
            return size
        expr = size.node.expr
        values = {s: self.symbols[str(s)] for s in expr.free_symbols if str(s) in self.symbols}
        return int(expr.xreplace(values)) if len(values) == len(expr.free_symbols) else hint(size)


@dataclass(frozen=True)
class Block:
    """One piece of a program at given sizes.

    Attributes:
        nodes: in graph order.
        inputs: the values that it reads from outside, in the order in which they are read.
        outputs: its values that are read outside.
        family: what it computes, with letters for the sizes of free axes.
        axes: what the letters stand for.
        layouts: the axes of each input.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    family: str
    axes: tuple[Axis, ...]
    layouts: tuple[Layout, ...]

    def sizes(self, at: Mapping[Axis, int] | None = None) -> tuple[int, ...]:
        """The sizes of its axes, some of which may have others."""
        return tuple((at or {}).get(axis, axis.size) for axis in self.axes)

    def entries(self, sizes: Sequence[int]) -> list[int]:
        """How many entries each input has at sizes of the block's axes, but for what all sizes have in common."""
        at = dict(zip(self.axes, sizes, strict=True))
        return [math.prod(measure(axis, at) for axis in layout) for layout in self.layouts]


@dataclass(frozen=True)
class Blocks:
    """A program as blocks.

    Attributes:
        program: what they are of.
        analysis: its axes.
        blocks: in graph order.
        constant: nodes that depend on no input; each block has those that it needs.
        numbers: sizes as numbers.
    """

    program: Program
    analysis: Analysis
    blocks: tuple[Block, ...]
    constant: frozenset[Node]
    numbers: Numbers

    def number(self, size: Any) -> int:
        """A size as a number."""
        return self.numbers.number(size)

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of a value."""
        return tuple(self.number(size) for size in node.meta["val"].shape)

    def bytes(self, block: Block) -> int:
        """Memory of the tensors that a block reads."""
        left, seen = list(block.nodes), set[Node]()
        while left:
            for node in left.pop().all_input_nodes:
                if node in self.constant and node not in seen:
                    seen.add(node)
                    left.append(node)
        return sum(n.meta["val"].numel() * n.meta["val"].element_size() for n in seen if n.op == "get_attr")

    def like(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor without values, with numbers for sizes."""
        return torch.empty([self.number(size) for size in value.shape], dtype=value.dtype, device="meta")


def find_blocks(program: Program, dims: Mapping[str, int] | None = None) -> Blocks:
    """Take a program apart; takes milliseconds.

    Args:
        program: any Program.
        dims: sizes of dynamic dims by name; the batch is 1 unless given, others are those of the example.

    Raises:
        GraphError: a name is not a dynamic dim of the program.
    """
    known = program.contract.dims()
    for name in dims or {}:
        if name not in known:
            raise GraphError(f"no dynamic dim is called {name!r}", hint=nearest(name, known))
    sizes = {**known, **one_sample(program), **(dims or {})}
    fixed = frozenset(constants(program.graph))
    numbers = Numbers(program, sizes)
    analysis = analyze(program)
    write = _Writer(analysis, numbers, fixed)
    found = tuple(write.block(nodes) for nodes in _partition(program, fixed))
    return Blocks(program, analysis, found, fixed, numbers)


def _partition(program: Program, constant: frozenset[Node]) -> list[list[Node]]:
    """Nodes that run together."""
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    blocks: list[list[Node]] = []
    home: dict[Node, list[Node]] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or node in constant or not is_value(node):
            continue
        sources = [n for n in node.all_input_nodes if n not in constant and is_value(n)]
        last = max(sources, key=order.__getitem__, default=None)
        if last in home and _follows(node) and (node.target is operator.getitem or _readers(last) == [node]):
            home[node] = home[last]
            home[node].append(node)
        else:
            home[node] = [node]
            blocks.append(home[node])
    return blocks


def is_value(node: Node) -> bool:
    """Is it a tensor, or several?"""
    value = node.meta.get("val")
    return isinstance(value, (torch.Tensor, list, tuple))


def is_tensor(node: Node) -> bool:
    """Is it one tensor?"""
    return isinstance(node.meta.get("val"), torch.Tensor)


def _readers(node: Node) -> list[Node]:
    return [user for user in node.users if user.op == "output" or is_value(user)]


def _follows(node: Node) -> bool:
    """Is it pointwise, or a move?"""
    if node.target in FOLLOWING or is_pointwise(node.target):
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


class _Writer:
    """Writes blocks: each once, with letters of its own."""

    def __init__(self, analysis: Analysis, numbers: Numbers, constant: frozenset[Node]) -> None:
        self.analysis, self.numbers, self.constant = analysis, numbers, constant
        self.dynamic = dynamic_sizes(analysis, numbers.dims)
        self.restated: dict[Node, set[tuple[int | str, ...]]] = {}
        for literal in analysis.literals:
            self.restated.setdefault(literal.node, set()).add(literal.path)

    def block(self, nodes: Sequence[Node]) -> Block:
        """The block that these nodes are."""
        inside = set(nodes)
        inputs: dict[Node, str] = {}
        outputs = tuple(n for n in nodes if is_tensor(n) and any(user not in inside for user in _readers(n)))
        self.letters: dict[Axis, str] = {}
        self.names: dict[Node, str] = {}
        lines = []
        for node in nodes:
            for source in node.all_input_nodes:
                if source not in inside and source not in self.constant and is_value(source):
                    inputs.setdefault(source, f"x{len(inputs)}{self.type(source)}")
            self.names.update(inputs)
            lines.append(self.line(node))
            self.names[node] = f"%{len(lines) - 1}"
        layouts = tuple(self.layout(node) for node in inputs)
        return Block(tuple(nodes), tuple(inputs), outputs, "; ".join(lines), tuple(self.letters), layouts)

    def line(self, node: Node) -> str:
        """An op, what it reads, and what its result is like."""
        words = [self.argument(value, node, (i,)) for i, value in enumerate(node.args)]
        words += [f"{key}={self.argument(value, node, (key,))}" for key, value in sorted(node.kwargs.items())]
        return f"{operator_name(node).removeprefix('aten.')}({', '.join(words)}){self.type(node)}"

    def argument(self, value: Any, node: Node, path: tuple[int | str, ...]) -> str:
        """A value, or what stands for it; ``*`` where a shape repeats it."""
        if isinstance(value, Node):
            if value in self.names:
                return self.names[value]
            return self.weight(value) if value in self.constant else "*"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(self.argument(v, node, (*path, i)) for i, v in enumerate(value)) + "]"
        return "*" if path in self.restated.get(node, ()) else str(value)

    def weight(self, node: Node) -> str:
        """A constant: a tensor of the program, or what it is computed from."""
        if node.op == "get_attr":
            return "w" + self.type(node)
        words = [self.weight(n) for n in node.all_input_nodes]
        return f"{operator_name(node).removeprefix('aten.')}({', '.join(words)}){self.type(node)}"

    def type(self, node: Node) -> str:
        """``f32[1,a,14,14]``."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return ""
        dims = [self.dim(axis, size) for axis, size in zip(self.layout(node), value.shape, strict=True)]
        return f"{SHORT.get(value.dtype, str(value.dtype))}[{','.join(dims)}]"

    def layout(self, node: Node) -> Layout:
        """The axes of a tensor."""
        value, layout = node.meta.get("val"), self.analysis.values.get(node)
        if not isinstance(value, torch.Tensor):
            return ()
        return layout if isinstance(layout, tuple) and len(layout) == value.dim() else (None,) * value.dim()

    def dim(self, axis: Axis | None, size: Any) -> str:
        """A size as a number, or as an expression of letters."""
        if axis is None or not any(map(_is_free, leaves(axis))):
            return str(self.numbers.number(size))
        return self.expression(axis)

    def expression(self, axis: Axis) -> str:
        """Letters of free axes, numbers of others."""
        axis = axis.root()
        if axis.kind != "leaf":
            sign = "*" if axis.kind == "product" else "+"
            return "(" + sign.join(map(self.expression, axis.parts)) + ")"
        if not _is_free(axis):
            return str(self.dynamic.get(axis, axis.size))
        count = len(self.letters)
        letter = string.ascii_lowercase[count % 26] + str(count // 26 or "")
        return self.letters.setdefault(axis, letter)


def _is_free(axis: Axis) -> bool:
    return axis.pinned is None and bool(axis.members)
