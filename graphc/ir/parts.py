"""Parts: compress what can be traced of a model that cannot be traced whole, and put it back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from graphc.errors import CaptureError, GraphError, nearest
from graphc.ir.capture import Dynamic, capture, dependence, evaluating, first_line
from graphc.ir.graph import assemble, copy_graph
from graphc.ir.program import Program
from graphc.ir.varying import Inputs, another_size, varying

TOLERANCE = 1e-4


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
            _check_fit(path, part, program, TOLERANCE)
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
    for path, program in parts.items():
        outer = next((other for other in parts if path != other and path.startswith(f"{other}.")), None)
        if outer is not None:
            raise GraphError(f"the part {path!r} lies within the part {outer!r}", hint="put in one of the two")
        part = _submodule(model, path)
        with evaluating(part):
            _check_fit(path, part, program)
    whole = copy.deepcopy(model)
    for path, program in parts.items():
        _become(whole.get_submodule(path), program)
    return whole


class Part(nn.Module):
    """Mixed into the class of a submodule: it calls a program."""

    program: GraphModule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program like the submodule."""
        return self.program(*args, **kwargs)

    def __reduce__(self) -> Any:
        kind = type(self)
        return _restore, (kind.__bases__[1],), vars(self)


def _become(part: nn.Module, program: Program) -> None:
    """Turn a module into one that calls a program; its class is made for it, as torch's parametrize does."""
    if not isinstance(part, Part):
        part.__class__ = _kind(type(part))
    for own in (part._parameters, part._buffers, part._modules):
        own.clear()
    part.program = assemble(copy_graph(program.graph), copy.deepcopy(program.tensors()))


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


def _check_fit(path: str, part: nn.Module, program: Program, tolerance: float | None = None) -> None:
    """A program gives what a submodule gives, at the example's and at another size; also the same values, if asked.

    Raises:
        GraphError: it does not; says at what size, and in which output.
    """
    for args, kwargs in _sizes(path, part, program):
        sizes = [list(v.shape) for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
        where = f"{path}, given {', '.join(map(str, sizes))}"
        try:
            with torch.no_grad():
                wanted, given = part(*args, **kwargs), program(*args, **kwargs)
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            hint = f"make the program by graphc.capture_part(model, {path!r}, ...)"
            raise GraphError("the program does not fit the part", where=where, why=why, hint=hint) from error
        why = _difference(program, wanted, given, tolerance)
        if why:
            hint = "the model expects what the part gave: the same outputs, of the same dtypes and shapes"
            raise GraphError("the program does not fit the part", where=where, why=why, hint=hint)


def _sizes(path: str, part: nn.Module, program: Program) -> Iterator[Inputs]:
    yield program.example()
    if program.contract.dims():
        yield another_size(part, program.contract, path)


def _difference(program: Program, wanted: Any, given: Any, tolerance: float | None) -> str:
    """What differs between two results; empty if nothing does."""
    (first, one), (second, other) = pytree.tree_flatten(wanted), pytree.tree_flatten(given)
    if one != other:
        return f"the part gives {one}, the program {other}"
    for spec, a, b in zip(program.contract.outputs, first, second, strict=True):
        kinds = [f"{v.dtype}{list(v.shape)}" if isinstance(v, torch.Tensor) else repr(v) for v in (a, b)]
        if kinds[0] != kinds[1]:
            return f"the output {spec.name!r} of the part is {kinds[0]}, of the program {kinds[1]}"
        if tolerance is not None and isinstance(a, torch.Tensor) and not _close(a, b, tolerance):
            return f"the output {spec.name!r} of the program has other values"
    return ""


def _close(wanted: torch.Tensor, given: torch.Tensor, tolerance: float) -> bool:
    """Equal up to a share of the largest finite magnitude."""
    finite = wanted[torch.isfinite(wanted)].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(wanted, given, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
