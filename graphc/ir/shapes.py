"""Shape propagation: ``meta["val"]`` of every node, with the symbols of the original capture."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.symbolic_shapes import ShapeEnv, compute_unbacked_bindings, rebind_unbacked

from graphc.errors import VerifyError
from graphc.ir.graph import attribute, source_line

ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
"""What torch raises where shapes do not fit."""

LITERALS = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types of arguments that are alike where they are equal."""


class _Shapes:
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
            value = self.made[made_from] if made_from in self.made else self._run(node, made_from)
        self.values[node] = node.meta["val"] = value
        node.meta.pop("tensor_meta", None)

    def _tensor(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        kind = ("tensor of the program", _kind(value))
        if kind not in self.kinds or not self.sharing:
            self.kinds[kind] = self._one_of_kind(self.mode.from_tensor(value, static_shapes=True))
        return self.kinds[kind]

    def _run(self, node: Node, made_from: Hashable) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        result = node.target(*args, **kwargs)  # type: ignore[operator] # a function, as the graph holds no other calls
        env = self.mode.shape_env
        assert env is not None
        rebind_unbacked(env, node, result)
        bindings = compute_unbacked_bindings(env, result)
        if bindings:
            node.meta["unbacked_bindings"] = bindings
            return result
        self.made[made_from] = self._one_of_kind(result)
        return self.made[made_from]

    def _one_of_kind(self, value: Any) -> Any:
        return self.kinds.setdefault(_kind(value), value) if self.sharing else value

    def _word(self, argument: Any) -> Hashable:
        """An argument as part of a key: a value by its identity, a literal by type and value."""
        if isinstance(argument, Node):
            return id(self.values[argument])
        if isinstance(argument, (list, tuple)):
            return tuple(map(self._word, argument))
        if isinstance(argument, dict):
            return tuple((key, self._word(value)) for key, value in argument.items())
        return _kind(argument)


def _depends_on_data(graph: Graph) -> bool:
    """Do some sizes of the program depend on data, as far as is known?"""
    return any("unbacked_bindings" in node.meta for node in graph.nodes)


def _kind(value: Any) -> Hashable:
    """Equal for values that no op can tell apart; what is not known to be alike differs from all."""
    if isinstance(value, torch.Tensor) and value.layout is torch.strided:
        sizes = tuple(map(_kind, (*value.shape, *value.stride(), value.storage_offset())))
        return isinstance(value, torch.nn.Parameter), value.requires_grad, value.dtype, value.device, sizes
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return type(value), value.node.expr
    if isinstance(value, (list, tuple)):
        return (type(value), *map(_kind, value))
    if value is None or isinstance(value, LITERALS):
        return type(value), value
    return id(value), object()


def fake_mode(module: GraphModule) -> FakeTensorMode:
    """The fake mode of the placeholders, or a new one where no placeholder is a tensor."""
    for node in module.graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), FakeTensor):
            mode: FakeTensorMode = node.meta["val"].fake_mode
            return mode
    return FakeTensorMode(shape_env=ShapeEnv())


def refresh(module: GraphModule) -> None:
    """Compute ``meta["val"]`` of every node again.

    Raises:
        VerifyError: shapes no longer fit together; names the node and its source line.
    """
    mode = fake_mode(module)
    assert mode.shape_env is not None
    shapes = _Shapes(module, mode)
    oblivious = symbolic_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined] # made at import
    quiet = mode.shape_env.suppress_guards()
    with mode, _without_cache(mode), enable_python_dispatcher(), torch.no_grad(), quiet, oblivious:
        for node in module.graph.nodes:
            try:
                shapes.visit(node)
            except ERRORS as error:
                raise _misfit(node, error) from error
    if shapes.sharing and _depends_on_data(module.graph):  # it was not known before
        refresh(module)


@contextlib.contextmanager
def _without_cache(mode: FakeTensorMode) -> Iterator[None]:
    """No cache of fake tensors: no op is run twice, and to fill the cache takes as long as half of the ops."""
    before = mode.cache_enabled
    mode.cache_enabled = False
    try:
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
