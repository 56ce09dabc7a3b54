"""Words: what stands in a graph (arguments, targets, metadata) as JSON, and back, without running any of it."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from graphc.errors import EmitError

PLAIN = (torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types whose values are known by their names in torch, or, as devices are, by their own."""

FUNCTIONS = {"_operator": operator, "math": math, "torch": torch}
"""Modules whose plain functions a stored graph may call; of torch, those that make sizes (``sym_*``)."""


class WordError(EmitError):
    """Something that has no word."""


def word(value: Any) -> Any:
    """A value as JSON: literals, nodes by name, lists, tuples, dicts, slices, classes, dtypes and their like.

    Raises:
        WordError: there is no word for it.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, list):
        return [word(v) for v in value]
    for kind, say in _SAID.items():
        if isinstance(value, kind):
            return {kind.__name__: say(value)}
    if isinstance(value, PLAIN):
        return {"torch": str(value).removeprefix("torch."), "as": type(value).__name__}
    raise WordError("a value has no word", where=type(value).__name__)


def meant(value: Any, nodes: Mapping[str, Node]) -> Any:
    """What a word means.

    Args:
        value: as JSON has it.
        nodes: by name.

    Raises:
        WordError: it is no word.
        KeyError: a node is not known.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [meant(v, nodes) for v in value]
    if not isinstance(value, dict):
        raise WordError("this is no word", where=repr(value)[:80])
    if set(value) == {"torch", "as"}:
        return _of_torch(value)
    ((kind, said),) = value.items() if len(value) == 1 else (("", ""),)
    if kind == "node":
        return nodes[said]
    if kind == "float":
        return float(said)
    if kind not in _MEANT:
        raise WordError("this is no word", where=repr(value)[:80])
    return _MEANT[kind](said, nodes)


def _of_torch(value: Mapping[str, Any]) -> Any:
    if value["as"] == "device":
        return torch.device(value["torch"])
    found = getattr(torch, value["torch"], None)
    if type(found).__name__ != value["as"] or not isinstance(found, PLAIN):
        raise WordError("this is nothing of torch", where=repr(value)[:80])
    return found


def _class_name(kind: type) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if _class(name, {}) is not kind:
        raise WordError("a class cannot be found by its name", where=name)
    return name


def _class(name: str, nodes: Mapping[str, Node]) -> type:
    """A class of a module that is imported already; nothing is imported for a stored graph."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise WordError("a class cannot be found by its name", where=name)
    return found


_SAID: dict[type, Callable[[Any], Any]] = {
    tuple: lambda value: [word(v) for v in value],
    dict: lambda value: [[word(k), word(v)] for k, v in value.items()],
    slice: lambda value: [word(value.start), word(value.stop), word(value.step)],
    complex: lambda value: [repr(value.real), repr(value.imag)],
    type: _class_name,
}
_MEANT: dict[str, Callable[[Any, Mapping[str, Node]], Any]] = {
    "tuple": lambda said, nodes: tuple(meant(v, nodes) for v in said),
    "dict": lambda said, nodes: {meant(k, nodes): meant(v, nodes) for k, v in said},
    "slice": lambda said, nodes: slice(*(meant(v, nodes) for v in said)),
    "complex": lambda said, nodes: complex(float(said[0]), float(said[1])),
    "type": _class,
}


def target_word(node: Node) -> str:
    """The target of a node as text.

    Raises:
        WordError: it is no op of torch and no function of ``FUNCTIONS``.
    """
    target: Any = node.target
    if node.op != "call_function":
        return str(target)
    if isinstance(target, torch._ops.OpOverload):
        return f"{target._schema.name}.{target._overloadname}"
    name = f"{getattr(target, '__module__', '')}/{getattr(target, '__name__', '')}"
    if _function(name) is not target:
        raise WordError("an op has no word", where=f"{node.name}: {target}")
    return name


def target_meant(name: str) -> Any:
    """The op of a ``call_function`` node.

    Raises:
        WordError: there is no such op.
    """
    if "/" in name:
        found = _function(name)
    else:
        space, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        found = getattr(getattr(getattr(torch.ops, space, None), packet, None), overload, None)
        found = found if isinstance(found, torch._ops.OpOverload) else None
    if found is None:
        raise WordError("there is no such op", where=name)
    return found


def _function(name: str) -> Any:
    module, _, function = name.partition("/")
    home = FUNCTIONS.get(module.partition(".")[0])
    if home is None or function.startswith("_") or (home is torch and not function.startswith("sym_")):
        return None
    return getattr(home, function, None)
