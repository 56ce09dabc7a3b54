"""Parts: compress what can be traced of a model that cannot be traced whole, and put it back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from graphc.errors import CaptureError, GraphError, nearest
from graphc.ir.capture import Dynamic, capture, dependence, evaluating
from graphc.ir.edit import set_training
from graphc.ir.fitting import check_fit
from graphc.ir.graph import assemble, copy_graph
from graphc.ir.program import Program
from graphc.ir.varying import Inputs, varying

TOLERANCE = 1e-4
"""Of what is captured, against the submodule, as a share of the largest magnitude."""


def find_parts(model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> list[str]:
    """Paths of the largest submodules in which no size and no branch depends on values.

    The model is run once on example inputs. Each path can be given to ``capture_part``; that also
    torch.export knows all that such a part does is seen there. ``[""]`` is the model itself.

    Raises:
        CaptureError: the inputs do not fit the model.
    """
    with evaluating(model):
        return dependence(model, args, kwargs or {}).traceable(model)


def capture_part(
    model: nn.Module,
    path: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic | None = None,
) -> Program:
    """Trace one submodule of a model into a Program, with the inputs that the model gives it.

    The model is run once on example inputs, and left as it was; what the submodule is given at its
    first call are the example inputs of the Program, which shares the model's tensors. The Program
    is run beside the submodule at that and at another size.

    Args:
        path: the dotted path of the submodule: ``backbone``, ``rpn.head``.
        args, kwargs: example inputs of the whole model.
        dynamic: as for ``capture``, by the inputs of the submodule. None chooses: ``batch`` for dim 0
            of all tensors that agree on it, ``height`` and ``width`` for images and feature maps
            (numbered where there are several) if the submodule runs at other ones; see the Program's
            contract. Dims of size 1 are then enlarged in the example, as torch.export would fix some.

    Raises:
        CaptureError: there is no such submodule, the inputs do not fit the model, it never calls the
            submodule, torch.export refuses it, or what was traced is wrong at another size.
    """
    part = _submodule(model, path)
    with evaluating(model):
        given, named = _first_call(model, path, part, args, kwargs or {})
        if dynamic is None:
            dynamic, (given, named) = varying(part, given, named)
        program = capture(part, given, named, dynamic=dynamic)
        try:
            check_fit(path, part, program, TOLERANCE)
        except GraphError as error:
            hint = "use an example with other sizes (a batch of 3, not of 1), or give `dynamic`"
            raise CaptureError("the part was not traced as it is", where=path, why=error.why, hint=hint) from error
    return program


def put_parts(model: nn.Module, parts: Mapping[str, Program]) -> nn.Module:
    """A copy of a model in which programs stand in the place of submodules.

    Each part keeps its class, attributes, methods and hooks, and calls the program instead of its
    own forward; its tensors are copies of the program's, in ``<path>.program``. Its batch norms and
    dropouts stay in the mode that the program has (``set_training``), whatever ``train()`` says.

    Args:
        parts: for each path of a submodule, a program that takes what it takes and gives what it gives.

    Raises:
        GraphError: there is no such submodule, one lies within another, or a program does not run on
            its example inputs as the submodule does: names the output that differs.
    """
    outputs: dict[str, pytree.TreeSpec] = {}
    for path, program in parts.items():
        outer = next((other for other in parts if path != other and path.startswith(f"{other}.")), None)
        if outer is not None:
            raise GraphError(f"the part {path!r} lies within the part {outer!r}", hint="put in one of the two")
        part = _submodule(model, path)
        with evaluating(part):
            outputs[path] = check_fit(path, part, set_training(program, False))
    whole = copy.deepcopy(model)
    for path, program in parts.items():
        _become(whole.get_submodule(path), program, outputs[path])
    return whole


class Part(nn.Module):
    """Mixed into the class of a submodule: it calls a program."""

    program: GraphModule
    _outputs: pytree.TreeSpec

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; its outputs come in the classes that the submodule gave."""
        return pytree.tree_unflatten(pytree.tree_leaves(self.program(*args, **kwargs)), self._outputs)

    def __reduce__(self) -> Any:
        kind = type(self)
        return _restore, (kind.__bases__[1],), vars(self)


def _become(part: nn.Module, program: Program, outputs: pytree.TreeSpec) -> None:
    """Turn a module into one that calls a program; its class is made for it, as torch's parametrize does."""
    if not isinstance(part, Part):
        part.__class__ = _kind(type(part))
    for own in (part._parameters, part._buffers, part._modules):
        own.clear()
    part.program = assemble(copy_graph(program.graph), copy.deepcopy(program.tensors()))
    vars(part)["_outputs"] = outputs


def _kind(base: type[nn.Module]) -> type[nn.Module]:
    return type(base.__name__, (Part, base), {"__module__": __name__, "__doc__": base.__doc__})


def _restore(base: type[nn.Module]) -> nn.Module:
    kind = _kind(base)
    return kind.__new__(kind)


def _submodule(model: nn.Module, path: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        raise CaptureError(f"the model has no part {path!r}", where=type(model).__name__, hint=nearest(path, modules))
    return modules[path]


def _first_call(model: nn.Module, path: str, part: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
    """Copies of what a submodule is given when the model is run."""
    calls: list[Inputs] = []

    def keep(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not calls:
            calls.append(pytree.tree_map_only(torch.Tensor, lambda value: value.detach().clone(), (given, named)))

    handle = part.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        seen = dependence(model, args, kwargs)
    finally:
        handle.remove()
    parts = seen.traceable(model)
    if not calls:
        hint = f"these parts are called, and can be captured: {', '.join(parts)}" if parts else ""
        raise CaptureError(f"the model never calls its part {path!r}", where=type(model).__name__, hint=hint)
    return calls[0]
