"""Shape propagation: ``meta["val"]`` of every node, with the symbols of the original capture."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.symbolic_shapes import ShapeEnv, compute_unbacked_bindings, rebind_unbacked

from graphc.errors import VerifyError
from graphc.ir.graph import attribute, source_line
from graphc.ir.lazy import LazyTensor

ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
"""What torch raises where shapes do not fit."""

LITERALS = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types of arguments that are alike where they are equal."""


class Shapes:
    """Runs a graph on fake tensors, each op once for equal arguments.

    What an op makes depends on the kind of its operands alone (dtype, sizes, strides, device), so
    values of one kind are one fake tensor, and an op that meets the same values again is not run
    again: the layers of a network have few different shapes. Where some sizes depend on data, every
    value is its own, as torch remembers such sizes with the tensor that they come from.
    """

    def __init__(self, module: GraphModule, mode: FakeTensorMode) -> None:
        self.module = module
        self.mode = mode
        self.values: dict[Node, Any] = {}
        self.kinds: dict[Hashable, Any] = {}
        self.made: dict[Hashable, Any] = {}
        self.sharing = not _depends_on_data(module.graph)

    def visit(self, node: Node) -> None:
        """Set the value of one node."""
        if node.op == "output":
            return
        if node.op == "placeholder":
            value = self._one_of_kind(node.meta.get("val"))
        elif node.op == "get_attr":
            value = self._tensor(attribute(self.module, str(node.target)))
        else:
            made_from = (node.target, self._word(node.args), self._word(node.kwargs))
            value = self.made[made_from] if made_from in self.made else self.compute(node)
            if self.sharing:
                self.made[made_from] = value
        self.values[node] = node.meta["val"] = value
        node.meta.pop("tensor_meta", None)

    def _tensor(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        key = ("tensor of the program", kind(value))
        if key not in self.kinds or not self.sharing:
            self.kinds[key] = self._one_of_kind(self._fake(value))
        return self.kinds[key]

    def _fake(self, value: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, LazyTensor):
            return self.mode.from_tensor(value, static_shapes=True)
        made = FakeTensor(self.mode, torch.empty(value.shape, dtype=value.dtype, device="meta"), value.device)
        return torch.nn.Parameter(made, value.requires_grad) if isinstance(value, torch.nn.Parameter) else made

    def compute(self, node: Node) -> Any:
        """The value of a node that no other node has made, by running its op on symbols."""
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        env = self.mode.shape_env
        assert env is not None
        with _symbolic(self.mode):
            result = node.target(*args, **kwargs)  # type: ignore[operator] # a function: the graph has no other calls
            rebind_unbacked(env, node, result)
            bindings = compute_unbacked_bindings(env, result)
        if bindings:
            node.meta["unbacked_bindings"] = bindings
        return self._one_of_kind(result)

    def _one_of_kind(self, value: Any) -> Any:
        return self.kinds.setdefault(kind(value), value) if self.sharing else value

    def _word(self, argument: Any) -> Hashable:
        """An argument as part of a key: a value by its identity, a literal by type and value."""
        if isinstance(argument, Node):
            return id(self.values[argument])
        if isinstance(argument, (list, tuple)):
            return tuple(map(self._word, argument))
        if isinstance(argument, dict):
            return tuple((key, self._word(value)) for key, value in argument.items())
        return kind(argument)


def _depends_on_data(graph: Graph) -> bool:
    """Do some sizes of the program depend on data, as far as is known?"""
    return any("unbacked_bindings" in node.meta for node in graph.nodes)


def kind(value: Any) -> Hashable:
    """Equal for values that no op can tell apart; what is not known to be alike differs from all."""
    if isinstance(value, torch.Tensor) and value.layout is torch.strided:
        return kind_of_tensor(value, value.shape, value.stride(), value.storage_offset())
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return type(value), value.node.expr
    if isinstance(value, (list, tuple)):
        return (type(value), *map(kind, value))
    if value is None or isinstance(value, LITERALS):
        return type(value), value
    return id(value), object()


def kind_of_tensor(like: torch.Tensor, sizes: Iterable[Any], strides: Iterable[Any], offset: Any) -> Hashable:
    """The kind of a tensor that is like another but for its place in memory."""
    place = tuple(map(kind, (*sizes, *strides, offset)))
    return isinstance(like, torch.nn.Parameter), like.requires_grad, like.dtype, like.device, place


def fake_mode(module: GraphModule) -> FakeTensorMode:
    """The fake mode of the placeholders, or a new one where no placeholder is a tensor."""
    for node in module.graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), FakeTensor):
            mode: FakeTensorMode = node.meta["val"].fake_mode
            return mode
    return FakeTensorMode(shape_env=ShapeEnv())


def refresh(module: GraphModule, way: type[Shapes] = Shapes) -> None:
    """Compute ``meta["val"]`` of every node again.

    Args:
        module: its placeholders have values.
        way: how; by default every op is run on symbols.

    Raises:
        VerifyError: shapes no longer fit together; names the node and its source line.
    """
    shapes = way(module, fake_mode(module))
    for node in module.graph.nodes:
        try:
            shapes.visit(node)
        except ERRORS as error:
            raise _misfit(node, error) from error
    if shapes.sharing and _depends_on_data(module.graph):  # it was not known before
        refresh(module)


@contextlib.contextmanager
def _symbolic(mode: FakeTensorMode) -> Iterator[None]:
    """Ops run on fake tensors, for sizes of every number, and leave no guard behind.

    There is no cache of fake tensors: no op is run twice, and to fill the cache takes as long as half of the ops.
    """
    assert mode.shape_env is not None
    before = mode.cache_enabled
    mode.cache_enabled = False
    oblivious = symbolic_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined] # made at import
    try:
        with mode, enable_python_dispatcher(), torch.no_grad(), mode.shape_env.suppress_guards(), oblivious:
            yield
    finally:
        mode.cache_enabled = before


def _misfit(node: Node, error: Exception) -> VerifyError:
    return VerifyError(
        "shapes no longer fit together after a rewrite",
        where=f"{node.name}, {source_line(node)}",
        why=next(iter(str(error).splitlines()), type(error).__name__),
        hint="the rule of an op before this node is wrong or missing; please report the model",
    )
