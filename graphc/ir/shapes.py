"""Shape propagation: ``meta["val"]`` of every node, with the symbols of the original capture."""

from __future__ import annotations

from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.symbolic_shapes import ShapeEnv, compute_unbacked_bindings, rebind_unbacked

from graphc.errors import VerifyError
from graphc.ir.graph import source_line


class _Shapes(Interpreter):
    """Runs the graph on fake tensors; parameters become fake as they are read."""

    def __init__(self, module: GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.mode = mode

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return self.mode.from_tensor(value, static_shapes=True) if isinstance(value, torch.Tensor) else value

    def run_node(self, node: Node) -> Any:
        result = super().run_node(node)
        env = self.mode.shape_env
        assert env is not None
        rebind_unbacked(env, node, result)
        bindings = compute_unbacked_bindings(env, result)
        if bindings:
            node.meta["unbacked_bindings"] = bindings
        if node.op != "output":
            node.meta["val"] = result
        node.meta.pop("tensor_meta", None)
        return result


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
    inputs = [n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder"]
    assert mode.shape_env is not None
    shapes = _Shapes(module, mode)
    oblivious = symbolic_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined] # made at import
    with mode, enable_python_dispatcher(), torch.no_grad(), mode.shape_env.suppress_guards(), oblivious:
        try:
            shapes.run(*inputs, enable_io_processing=False)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise _misfit(module, shapes, error) from error


def _misfit(module: GraphModule, shapes: _Shapes, error: Exception) -> VerifyError:
    failed = next((n for n in module.graph.nodes if n not in shapes.env and n.op == "call_function"), None)
    return VerifyError(
        "shapes no longer fit together after a rewrite",
        where=f"{failed.name}, {source_line(failed)}" if failed is not None else "unknown node",
        why=next(iter(str(error).splitlines()), type(error).__name__),
        hint="the rule of an op before this node is wrong or missing; please report the model",
    )
