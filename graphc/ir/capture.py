"""Capture: from a model and example inputs to a Program, through torch.export."""

from __future__ import annotations

import contextlib
import inspect
import keyword
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from graphc.errors import CaptureError, nearest
from graphc.ir.canonical import canonicalize
from graphc.ir.edit import STATISTICS, TRAINING_FLAG
from graphc.ir.graph import assemble, attribute, copy_graph, source_line
from graphc.ir.inline import inline_regions
from graphc.ir.program import Program
from graphc.ir.specs import describe_contract, names_of_symbols
from graphc.ir.text import operator_name
from graphc.ir.tracing import trace

Dynamic = Mapping[str, Mapping[int, str]]


def capture(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Dynamic | None = None,
) -> Program:
    """Trace a model into a Program.

    The model is traced in evaluation mode and without gradients, and is left as it was; the
    Program shares its tensors. Hugging Face models are traced without their key/value cache.

    Args:
        model: a module, a Hugging Face model, or an ExportedProgram (which has its own inputs).
        args: positional example inputs. Use sizes that differ from each other and from the
            model's own (a batch of 4, not of 1 or 2), or torch.export may take them for constants.
        kwargs: example inputs by name.
        dynamic: for each input, which dims may vary and their names: ``{"x": {0: "batch"}}``; the
            same name is the same size. None makes dim 0 of all inputs that agree on it dynamic,
            as ``batch``, if it is at least 2; ``{}`` captures fixed sizes.

    Raises:
        CaptureError: the inputs do not fit, a name is not an input, or torch.export refuses the
            model; says which line and what to do.
    """
    _check_names(model.state_dict if isinstance(model, ExportedProgram) else model.state_dict())
    if isinstance(model, ExportedProgram):
        return _from_exported(model, None)
    args, kwargs = tuple(args), dict(kwargs or {})
    bound = _bind(model, args, kwargs)
    chosen = _default_dynamic(bound) if dynamic is None else dynamic
    for name in chosen:
        if name not in bound:
            raise CaptureError(f"no input is called {name!r}", where="dynamic", hint=nearest(name, bound))
        _check_dims(name, bound[name], chosen[name])
    shapes = _dynamic_shapes(bound, chosen)
    with evaluating(model):
        exported = _export(model, args, kwargs, shapes)
    return _from_exported(exported, model, args, kwargs, shapes)


def _bind(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Example inputs by the names of the model's forward."""
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            "the example inputs do not fit the model",
            where=f"{type(model).__name__}.forward{inspect.signature(model.forward)}",
            why=str(error),
            hint="give the inputs that forward needs, by position or by name",
        ) from error
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return named


def _check_names(names: Iterable[str]) -> None:
    """torch.fx writes names into Python code, where a keyword cannot stand."""
    for name in names:
        word = next((part for part in name.split(".") if keyword.iskeyword(part)), None)
        if word is not None:
            why = f"{word!r} is a keyword of Python, and torch.fx cannot write code that reads it"
            raise CaptureError(
                "the model has a name that cannot be traced", where=name, why=why, hint="rename the module"
            )


def _check_dims(name: str, value: Any, dims: Mapping[int, str]) -> None:
    ranks = [v.dim() for v in pytree.tree_leaves(value) if isinstance(v, torch.Tensor)]
    for dim, word in dims.items():
        where = f"dynamic, input {name!r}"
        if not all(0 <= dim < rank for rank in ranks):
            why = f"it has {' and '.join(map(str, sorted(set(ranks))))} dims"
            raise CaptureError(f"the input has no dim {dim}", where=where, why=why, hint="count dims from 0")
        if not word.isidentifier():
            hint = "use letters, digits and underscores"
            raise CaptureError(f"{word!r} cannot be the name of a dim", where=where, hint=hint)


def _default_dynamic(bound: Mapping[str, Any]) -> Dynamic:
    """Dim 0 of every input whose tensors all agree on it with the first tensor."""
    sizes = {name: _first_dims(value) for name, value in bound.items()}
    batch = next((found[0] for found in sizes.values() if found), 0)
    return {name: {0: "batch"} for name, found in sizes.items() if set(found) == {batch}} if batch >= 2 else {}


def _first_dims(value: Any) -> list[int]:
    """The size of dim 0 of each tensor in an input; 0 for a tensor without dims."""
    tensors = [v for v in pytree.tree_leaves(value) if isinstance(v, torch.Tensor)]
    return [int(v.shape[0]) if v.dim() else 0 for v in tensors]


def _dynamic_shapes(bound: Mapping[str, Any], chosen: Dynamic) -> dict[str, Any]:
    """torch.export's ``dynamic_shapes`` with names in place of Dim objects."""

    def specs(value: Any, dims: Mapping[int, str]) -> Any:
        return pytree.tree_map(lambda leaf: dict(dims) if isinstance(leaf, torch.Tensor) else None, value)

    return {name: specs(value, chosen.get(name, {})) for name, value in bound.items()}


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no key/value cache; put back afterwards."""
    training = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    parts = [config, *(getattr(config, name) for name in getattr(config, "sub_configs", {}))]
    caching = [part for part in parts if getattr(part, "use_cache", False)]
    model.eval()
    for part in caching:
        part.use_cache = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for part in caching:
            part.use_cache = True


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: dict[str, Any]
) -> ExportedProgram:
    try:
        return trace(model, args, kwargs, shapes)
    except Exception as error:
        raise _explain(model, args, kwargs, error) from error


def _explain(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> CaptureError:
    """Inputs that do not fit, or a line that torch.export cannot trace."""
    try:
        model(*args, **kwargs)
    except Exception as own:  # noqa: BLE001 - the model's own failure is what we report
        return CaptureError(
            "the example inputs do not fit the model",
            where=_user_line(own),
            why=f"{type(own).__name__}: {_first_line(own)}",
            hint="check the shapes and dtypes of the example inputs",
        )
    if "Constraints violated" in str(error) or "specialized" in str(error):
        hint = "use example sizes that differ from the model's own, or leave that dim out of `dynamic`"
    else:
        hint = (
            "control flow or sizes that depend on values cannot be traced: compute them from shapes, "
            "or capture the submodule that has none (detectors: the backbone)"
        )
    return CaptureError(
        "torch.export cannot trace the model",
        where=_user_line(error),
        why=f"{type(error).__name__}: {_first_line(error)}",
        hint=hint,
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("- ")]
    return " ".join([*lines[:1], *told[:1]]) if lines else ""


def _user_line(error: BaseException) -> str:
    """The innermost line that is neither torch's nor ours."""
    inside = [Path(torch.__file__).parent, Path(__file__).parents[1]]
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not any(Path(f.filename).is_relative_to(p) for p in inside)]
    own = [f for f in own if not f.filename.startswith("<")]
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "inside torch.export"


def _from_exported(
    exported: ExportedProgram,
    model: torch.nn.Module | None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Any] | None = None,
) -> Program:
    if args is None or kwargs is None:
        if exported.example_inputs is None:
            raise CaptureError(
                "the ExportedProgram carries no example inputs",
                hint="export it again; torch.export keeps the inputs it was given",
            )
        args, kwargs = exported.example_inputs
    module = exported.module(check_guards=False)
    assert isinstance(module, GraphModule)
    graph = copy_graph(module.graph)
    inline_regions(graph, module)
    names = _state_names(exported, model)
    canonicalize(graph, names)
    _check_statistics(graph)
    values = {str(n.target): attribute(module, str(n.target)) for n in graph.nodes if n.op == "get_attr"}
    symbols = names_of_symbols(graph, shapes)
    contract = describe_contract(graph, args, kwargs, shapes, symbols)
    aliases = {alias: name for alias, name in names.items() if alias != name and name in values}
    program = Program(assemble(graph, values), contract, aliases)
    program.module.train(False)
    return program


def _check_statistics(graph: Graph) -> None:
    """No normalisation updates its running statistics: a program never writes into its tensors."""
    for node in graph.nodes:
        written = [node.args[i] for i in STATISTICS.get(node.target, ())]
        if any(isinstance(buffer, Node) for buffer in written) and node.args[TRAINING_FLAG[node.target]]:
            raise CaptureError(
                "the model was traced in training mode",
                where=f"{node.name}, {source_line(node)}",
                why=f"this {operator_name(node)} would update {written[0].target} on every call",
                hint="call model.eval() before torch.export; set_training switches a program to training",
            )


def _state_names(exported: ExportedProgram, model: torch.nn.Module | None) -> dict[str, str]:
    """For every name of a tensor, the first name of the same memory."""
    named = dict(exported.state_dict)
    if model is not None:
        named.update(model.named_parameters(remove_duplicate=False))
        named.update(model.named_buffers(remove_duplicate=False))
    first: dict[Any, str] = {}
    names: dict[str, str] = {}
    for name, tensor in named.items():
        names[name] = first.setdefault(_memory(tensor), name)
    return names


def _memory(tensor: torch.Tensor) -> Any:
    """Equal for tensors that are one: same storage, place, shape and strides."""
    if tensor.numel() == 0:
        return id(tensor)
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype
