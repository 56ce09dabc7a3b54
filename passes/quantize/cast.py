"""Half precision: float16 or bfloat16 in the place of float32, in weights and in values."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch.fx import Graph, Node

from graphc.errors import GraphError
from graphc.ir.edit import rebuild
from graphc.ir.kinds import kind
from graphc.ir.program import Program

from .wide import is_real, wide_values

aten = torch.ops.aten
FLOAT = torch.float32
STATISTICS: dict[Any, range] = {aten.batch_norm.default: range(1, 5), aten.instance_norm.default: range(1, 5)}
"""Ops whose kernels take float32 beside half precision, and where: their running statistics leave the range of it."""
BOUNDS = ("clamp", "clamp_min", "clamp_max", "clip", "hardtanh")
"""Ops whose numbers are bounds, not values."""


def cast(program: Program, dtype: torch.dtype, keep: Collection[str] = ()) -> Program:
    """The program in half precision; inputs and outputs keep their types.

    Every parameter, constant and value of float32 becomes ``dtype``, except what ``wide_values`` says and the
    statistics of norms in evaluation. Float inputs and outputs are cast at the borders, integers are left alone, types
    that ops are told are told anew, tied tensors stay one. Numbers in the graph and constants that stand for minus
    infinity (masks such as ``finfo(float32).min``) become half of the least number, so that the sum of two masks, or
    of a mask and a score, is finite and a softmax of masked scores alone gives no NaN. Infinities stay.

    Args:
        program: in float32.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        keep: names of nodes that are computed in float32 too.

    Raises:
        GraphError: a weight is out of the range of ``dtype``; names it.
    """
    casting = _Casting(program, dtype, keep)
    return rebuild(program, casting.edit, tensors=casting.tensors)


class _Casting:
    """One rewriting: for each value the type that it has afterwards."""

    def __init__(self, program: Program, dtype: torch.dtype, keep: Collection[str]) -> None:
        self.dtype, self.wide = dtype, wide_values(program, keep)
        self.casts: dict[tuple[Node, torch.dtype], Node] = {}
        self.types: dict[str, torch.dtype] = {}
        for node in program.graph.nodes:
            if node.op == "get_attr" and is_real(node):
                self.types[node.name] = FLOAT if all(self._takes_wide(node, user) for user in node.users) else dtype
        held = program.tensors()
        names = {str(n.target) for n in program.graph.nodes if self.types.get(n.name) == dtype}
        self.tensors = {name: self._tensor(name, held[name]) for name in names}

    def _takes_wide(self, node: Node, user: Node) -> bool:
        places = STATISTICS.get(user.target, range(0))
        beside = any(i < len(user.args) and user.args[i] is node for i in places) and user.args[0] is not node
        return beside or user.name in self.wide

    def _tensor(self, name: str, value: torch.Tensor) -> torch.Tensor:
        most = torch.finfo(self.dtype).max
        parameter, data = isinstance(value, torch.nn.Parameter), value.detach()
        if not parameter:  # masks
            data = data.where((data >= -most) | data.isinf(), -most / 2)
        beyond = data.abs()[data.isfinite() & (data.abs() > most)]
        if len(beyond):
            raise GraphError(
                f"a weight is out of the range of {_word(self.dtype)}",
                where=name,
                why=f"it has {float(beyond.max()):.6g}; the range ends at {most:.6g}",
                hint="take bfloat16, or leave the ops that read it in float32",
            )
        data = data.to(self.dtype)
        return torch.nn.Parameter(data, value.requires_grad) if parameter else data

    def edit(self, graph: Graph) -> None:
        """Restate ops and put casts between values of different types."""
        for node in list(graph.nodes):
            if node.op == "placeholder" and is_real(node):
                self.types[node.name] = FLOAT
            elif node.op == "output":
                node.args = self._as(node.args, FLOAT, node)
            elif node.op == "call_function":
                self._op(node)

    def _op(self, node: Node) -> None:
        if kind(node) == "getitem" and isinstance(source := node.args[0], Node):
            self.types.update({node.name: self.types[source.name]} if source.name in self.types else {})
            return
        read = {self.types[n.name] for n in node.all_input_nodes if n.name in self.types}
        wanted = FLOAT if node.name in self.wide else self.dtype
        if not is_real(node) and node.name not in self.wide:  # comparisons take what there is
            wanted = FLOAT if FLOAT in read else self.dtype
        places = STATISTICS.get(node.target, range(0))
        args = [self._as(a, FLOAT if i in places else wanted, node) for i, a in enumerate(node.args)]
        node.args, node.kwargs = tuple(args), {key: self._as(a, wanted, node) for key, a in node.kwargs.items()}
        if is_real(node):
            told = wanted == FLOAT or self._tell(node)
            self.types[node.name] = wanted if read or told else FLOAT

    def _as(self, value: Any, wanted: torch.dtype, reader: Node) -> Any:
        """An argument with its values in a type, cast where they have another."""
        return torch.fx.node.map_arg(value, lambda node: self._cast(node, wanted, reader))

    def _cast(self, node: Node, wanted: torch.dtype, reader: Node) -> Node:
        if self.types.get(node.name, wanted) == wanted:
            return node
        if (node, wanted) not in self.casts:
            like = node if node.op == "call_function" else reader
            with reader.graph.inserting_before(reader):
                new = reader.graph.call_function(aten.to.dtype, (node, wanted))
            new.meta = {key: like.meta[key] for key in ("nn_module_stack", "stack_trace") if key in like.meta}
            self.casts[node, wanted] = new
        return self.casts[node, wanted]

    def _tell(self, node: Node) -> bool:
        """Give an op its type and numbers that this has; False if it makes float32 whatever it is told."""
        assert isinstance(node.target, torch._ops.OpOverload)
        known = {a.name: str(a.type) for a in node.target._schema.arguments}
        told = any(a is FLOAT for a in (*node.args, *node.kwargs.values()))
        limit = torch.finfo(self.dtype).max / (1 if kind(node) in BOUNDS else 2)

        def restated(value: Any, type_: str) -> Any:
            if value is FLOAT:
                return self.dtype
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and ("number" in type_ or "Tensor" in type_) and math.isfinite(value):
                return max(-limit, min(value, limit)) if abs(value) > torch.finfo(self.dtype).max else value
            return value

        node.args = tuple(restated(a, t) for a, t in zip(node.args, known.values(), strict=False))
        node.kwargs = {key: restated(a, known[key]) for key, a in node.kwargs.items()}
        makes = not any(n.name in self.types for n in node.all_input_nodes)
        if makes and not told and "dtype" in known:
            node.kwargs = {**node.kwargs, "dtype": self.dtype}
        return told or "dtype" in known


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
