"""Which values stay in float32 when the others become half precision: those whose range or steps it does not have.

Torch's own kernels in half precision sum in float32, norms and softmax as well; what is at risk is what models compute
in several ops, and a model that was captured in float32 no longer shows where its author cast up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch.fx import Node

from graphc.ir.kinds import GLOBAL_AVERAGE, kind
from graphc.ir.program import Program
from graphc.rules.pointwise import BROADCAST, FIRST, UNARY

POINTWISE = {*UNARY, "prelu", *(name.partition(".")[0] for name in (*FIRST, *BROADCAST))}
MOVES = set("cat stack clone repeat tile pad constant_pad_nd index index_select gather flip roll getitem".split())
REDUCTIONS = {*"mean sum amax amin max min".split(), GLOBAL_AVERAGE}
STATISTICS = set(
    """
    pow square sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p logsumexp logcumsumexp sinh cosh tan acosh
    sum nansum prod cumsum cumprod var std var_mean std_mean norm renorm dist cdist pdist cosine_similarity
    cos sin atan2 arctan2 arange linspace logspace grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator
    round floor ceil trunc fix frac nms roi_align
    """.split()
)
"""Ops whose results leave the range of float16, or whose operands are positions or sums, by kind."""


def wide_values(program: Program, keep: Collection[str] = ()) -> set[str]:
    """Names of the nodes that are computed in float32.

    - Powers, roots, exponentials, logarithms, sums and variances, and what is computed of their results alone,
      up to the first op that brings in another value (``x * rsqrt(mean(x ** 2) + eps)`` as a whole).
    - What only such ops read.
    - Positions: what is computed of integers and constants, without parameters, if it ends in sines, powers,
      roots or integers (rotary and sinusoidal embeddings, buckets of distances).
    - Ops on complex numbers, and those that give integers other than comparisons and places.

    Args:
        program: in float32.
        keep: names of further nodes.
    """
    return _Choice(program, keep).names()


class _Choice:
    def __init__(self, program: Program, keep: Collection[str]) -> None:
        self.nodes = list(program.graph.nodes)
        self.parameters = {n for n, value in program.tensors().items() if isinstance(value, torch.nn.Parameter)}
        self.positions = self._positions()
        self.wide = {node for node in self.nodes if node.name in keep or self._at_risk(node)}
        self.statistics: set[Node] = set()
        """Wide values that depend on data, and on nothing that is not wide."""

    def names(self) -> set[str]:
        """See ``wide_values``."""
        for node in reversed(self.nodes):
            if node not in self.wide and self._serves(node):
                self.wide.add(node)
        self.statistics = self.wide - self.positions
        for node in self.nodes:
            if node not in self.wide and node not in self.positions and is_real(node):
                self._follow(node)
        return {node.name for node in self.nodes if self._source(node) in self.wide}

    def _positions(self) -> set[Node]:
        """Values of integers and constants alone."""
        found: set[Node] = set()
        for node in self.nodes:
            if node.op == "placeholder":
                known = not is_real(node)
            elif node.op == "get_attr":
                known = str(node.target) not in self.parameters
            else:
                known = node.op == "call_function" and all(n in found for n in node.all_input_nodes)
            if known:
                found.add(node)
        return found

    def _at_risk(self, node: Node) -> bool:
        if node.op != "call_function":
            return False
        name = kind(node)
        read = [n for n in node.all_input_nodes if is_real(n)]
        if is_real(node) or _complex(node):
            squared = name == "mul" and len(node.args) > 1 and node.args[0] is node.args[1]
            return name in STATISTICS or name.startswith("linalg_") or squared or _complex(node)
        if node in self.positions:
            return bool(read) and any(True for _ in _tensors(node))
        return bool(read) and name in POINTWISE and not all(v.dtype == torch.bool for v in _tensors(node))

    def _serves(self, node: Node) -> bool:
        """Is a value computed for wide ones: by any reader if it is a position, else by all of them?"""
        if node.op != "call_function" or not is_real(node):
            return False
        if node in self.positions:
            return any(user in self.wide for user in node.users)
        light = kind(node) in POINTWISE | MOVES or _view(node)
        return light and bool(node.users) and all(user in self.wide for user in node.users)

    def _follow(self, node: Node) -> None:
        """What is computed of statistics alone is one; where one meets other values, both are read in float32."""
        read = [n for n in node.all_input_nodes if is_real(n)]
        name = kind(node)
        if node.op != "call_function" or not any(n in self.statistics for n in read):
            return
        light = name in POINTWISE | MOVES | REDUCTIONS or _view(node)
        if light and all(n in self.statistics or n.op == "get_attr" or n in self.positions for n in read):
            self.statistics.add(node)
            self.wide.add(node)
        elif name in POINTWISE:
            self.wide.add(node)

    @staticmethod
    def _source(node: Node) -> Node:
        """The op that makes a value; of a part of a tuple the one that makes all of it."""
        while kind(node) == "getitem":
            node = node.all_input_nodes[0]
        return node


def is_real(node: Node) -> bool:
    """Has a node a value of float32, or several?"""
    return any(v.dtype == torch.float32 for v in _tensors(node))


def _tensors(node: Node) -> Iterator[torch.Tensor]:
    value: Any = node.meta.get("val")
    for part in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(part, torch.Tensor):
            yield part


def _complex(node: Node) -> bool:
    return any(v.is_complex() for n in (node, *node.all_input_nodes) for v in _tensors(n))


def _view(node: Node) -> bool:
    """Does an op give its operand in another shape?"""
    if not isinstance(node.target, torch._ops.OpOverload) or kind(node) == "to":
        return False
    return any(result.alias_info is not None for result in node.target._schema.returns[:1])
