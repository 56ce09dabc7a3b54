"""Capture: from a model and example inputs to a Program, through torch.export."""

from __future__ import annotations

import contextlib
import inspect
import keyword
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from graphc.errors import CaptureError, nearest
from graphc.ir.canonical import canonicalize
from graphc.ir.dependence import Dependence, user_line
from graphc.ir.edit import STATISTICS, TRAINING_FLAG
from graphc.ir.graph import assemble, attribute, copy_graph, source_line
from graphc.ir.inline import inline_regions
from graphc.ir.program import Program
from graphc.ir.recognise import recognise
from graphc.ir.specs import describe_contract, is_dims, names_of_symbols
from graphc.ir.text import operator_name
from graphc.ir.tracing import trace

Dynamic = Mapping[str, Any]
"""For each input, names by dim; an input of several tensors may have them for each, in its own structure."""

LONGEST = 300
"""Characters of a foreign error that are quoted; torch's expressions of sizes can fill pages."""


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
            same name is the same size. An input that is a list or dict of tensors may have them
            for each: ``{"levels": [{2: "rows"}, {2: "half"}]}``. None makes dim 0 of all inputs
            that agree on it dynamic, as ``batch``, if it is at least 2; ``{}`` captures fixed sizes.

    Raises:
        CaptureError: the inputs do not fit, a name is not an input, or torch.export refuses the
            model; says which line and what to do.
    """
    _check_names(model.state_dict if isinstance(model, ExportedProgram) else model.state_dict())
    if isinstance(model, ExportedProgram):
        return _from_exported(model, None)
    args, kwargs = tuple(args), dict(kwargs or {})
    bound = bind(model, args, kwargs)
    chosen = _default_dynamic(bound) if dynamic is None else dynamic
    for name in chosen:
        if name not in bound:
            raise CaptureError(f"no input is called {name!r}", where="dynamic", hint=nearest(name, bound))
    shapes = {name: _dims_of_tensors(name, value, chosen.get(name, {})) for name, value in bound.items()}
    with evaluating(model):
        exported = _export(model, args, kwargs, shapes)
    return _from_exported(exported, model, args, kwargs, shapes)


def bind(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
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


def _dims_of_tensors(name: str, value: Any, dims: Any) -> Any:
    """torch.export's ``dynamic_shapes`` for one input, with names in place of Dim objects."""
    where = f"dynamic, input {name!r}"

    def spread(dims: Mapping[int, str] | None, part: Any) -> Any:
        return pytree.tree_map(lambda leaf: _dims_of_tensor(leaf, dims or {}, where), part)

    try:
        return pytree.tree_map(spread, dims, value, is_leaf=is_dims)
    except ValueError as error:
        hint = "give dims once for all tensors of the input, or for each in the input's own structure"
        raise CaptureError("the dims do not fit the input", where=where, why=str(error), hint=hint) from error


def _dims_of_tensor(value: Any, dims: Mapping[int, str], where: str) -> dict[int, str] | None:
    if not isinstance(value, torch.Tensor):
        return None
    for dim, word in dims.items():
        if not 0 <= dim < value.dim():
            why = f"it has {value.dim()} dims"
            raise CaptureError(f"the input has no dim {dim}", where=where, why=why, hint="count dims from 0")
        if not word.isidentifier():
            hint = "use letters, digits and underscores"
            raise CaptureError(f"{word!r} cannot be the name of a dim", where=where, hint=hint)
    return dict(dims)


def _default_dynamic(bound: Mapping[str, Any]) -> Dynamic:
    """Dim 0 of every input whose tensors all agree on it with the first tensor."""
    sizes = {name: _first_dims(value) for name, value in bound.items()}
    batch = next((found[0] for found in sizes.values() if found), 0)
    return {name: {0: "batch"} for name, found in sizes.items() if set(found) == {batch}} if batch >= 2 else {}


def _first_dims(value: Any) -> list[int]:
    """The size of dim 0 of each tensor in an input; 0 for a tensor without dims."""
    tensors = [v for v in pytree.tree_leaves(value) if isinstance(v, torch.Tensor)]
    return [int(v.shape[0]) if v.dim() else 0 for v in tensors]


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no key/value cache; put back afterwards."""
    training = {module: module.training for module in model.modules()}
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    caching = [config for config in configs.values() if getattr(config, "use_cache", False)]
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
    seen = dependence(model, args, kwargs)
    what, where = "torch.export cannot trace the model", user_line(traceback.extract_tb(error.__traceback__))
    why = f"{type(error).__name__}: {first_line(error)}"
    if "Constraints violated" in str(error) or "specialized" in str(error):
        hint = "use example sizes that differ from the model's own, or leave that dim out of `dynamic`"
    else:
        hint = "control flow or sizes that depend on values cannot be traced: compute them from shapes"
        if seen.reasons:
            why = f"sizes or branches depend on values, as a detector's number of boxes does: {seen.reasons['']}; {why}"
            hint = _way_out(seen.traceable(model)) or hint
    return CaptureError(what, where=where or "inside torch.export", why=why, hint=hint)


def _way_out(parts: Sequence[str]) -> str:
    """What to do about a model that depends on values, but has parts that do not; empty if it has none."""
    if not parts:
        return ""
    words = [*map(repr, parts[1:9]), *(["..."] if len(parts) > 9 else [])]
    others = f" (also {', '.join(words)})" if words else ""
    return (
        f"capture the parts in which none does: graphc.capture_part(model, {parts[0]!r}, args, kwargs){others}; "
        "graphc.put_parts puts them back into the model"
    )


def dependence(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Dependence:
    """Run the model once, in the mode it is in, and see where it depends on values.

    Raises:
        CaptureError: the model itself fails; says at which line.
    """
    seen = Dependence()
    try:
        seen.watch(model, args, kwargs)
    except Exception as own:
        raise CaptureError(
            "the example inputs do not fit the model",
            where=user_line(traceback.extract_tb(own.__traceback__)),
            why=f"{type(own).__name__}: {first_line(own)}",
            hint="check the shapes and dtypes of the example inputs",
        ) from own
    return seen


def first_line(error: Exception) -> str:
    """The first line of a foreign error, and the first thing that it suggests."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("- ")]
    line = " ".join([*lines[:1], *told[:1]]) if lines else ""
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."


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
    recognise(graph)
    _check_statistics(graph)
    values = {str(n.target): attribute(module, str(n.target)) for n in graph.nodes if n.op == "get_attr"}
    symbols = names_of_symbols(graph, shapes)
    contract = describe_contract(graph, args, kwargs, shapes, symbols)
    aliases = {alias: name for alias, name in names.items() if alias != name and name in values}
    parameters = {n: p for n, p in exported.state_dict.items() if isinstance(p, torch.nn.Parameter)}
    unused = {n: p for n, p in parameters.items() if names[n] == n and n not in values}
    program = Program(assemble(graph, values), contract, aliases, unused=unused)
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
