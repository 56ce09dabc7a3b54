"""Trust: nothing that a file brings is run. What is not known to be harmless is refused, with what it is."""

from __future__ import annotations

import json
import math
import operator
import re
from pathlib import Path
from typing import Any, NoReturn

import torch

from graphc.errors import EmitError

HIGHER_ORDER = frozenset("cond wrap_with_set_grad_enabled wrap_with_autocast while_loop map_impl scan".split())
"""Ops that run graphs of the file itself."""
FILES = frozenset({"from_file", "save", "load"})
"""Ops that read or write files."""
TREES = (
    re.compile(r"builtins\.(tuple|list|dict)|collections\.(OrderedDict|namedtuple|deque)|None"),
    re.compile(r"torch\.fx\.immutable_collections\.immutable_(list|dict)|torch\.Size"),
    re.compile(r"(torch\.fx\.node|torch\.utils\._pytree|transformers|diffusers|timm|torchvision)(\.\w+)+"),
)
"""Containers whose classes, by the names under which they are registered, run nothing when they are made."""
LARGEST_TREE = 2**20
"""Characters of a structure of inputs or outputs."""


class HostileError(EmitError):
    """A file holds something that reading it would run, or that is larger than it can be."""


def refuse(path: Path, why: str, hint: str = "do not use the file if you do not know where it comes from") -> NoReturn:
    """Refuse a file.

    Raises:
        HostileError: always.
    """
    raise HostileError("the file is refused", where=str(path), why=why, hint=hint)


def check_op(target: str, path: Path) -> None:
    """See that a target is an op of a library of torch, or a plain function on numbers.

    Raises:
        HostileError: it is something else.
    """
    if is_op(target):
        return
    hint = "import the package that defines it, if you know it, and do not use the file if you do not"
    refuse(path, f"its graph calls {target[:80]!r}, which is no op that is known", hint)


def is_op(target: str) -> bool:
    """Is this the name of an op, or of a plain function on numbers?"""
    if not re.fullmatch(r"[\w.]+", target):
        return False
    names = target.split(".")
    if names[:2] == ["torch", "ops"] and len(names) in (4, 5):
        if names[2] == "higher_order":
            return names[3] in HIGHER_ORDER
        packet = getattr(getattr(torch.ops, names[2], None), names[3], None)
        if not isinstance(packet, torch._ops.OpOverloadPacket) or names[3] in FILES:
            return False
        return len(names) == 4 or names[4] in packet.overloads()  # type: ignore[no-untyped-call] # torch has no types for it
    if len(names) != 2 or names[1].startswith("_"):
        return False
    if names[0] == "torch":
        return names[1].startswith("sym_") and hasattr(torch, names[1])
    home = {"_operator": operator, "operator": operator, "math": math}.get(names[0])
    return home is not None and hasattr(home, names[1]) and names[1] not in ("attrgetter", "methodcaller", "call")


def check_tree(text: str, path: Path) -> None:
    """See that a structure of inputs or outputs, as torch writes it, consists of plain containers.

    Raises:
        HostileError: it has a class that is none.
    """
    if len(text) > LARGEST_TREE:
        refuse(path, "a structure of inputs or outputs is too large")
    left: list[Any] = [json.loads(text)] if text else []
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            kind = value.get("type")
            if kind is not None and not any(tree.fullmatch(str(kind)) for tree in TREES):
                refuse(path, f"a structure of inputs or outputs has the class {str(kind)[:80]!r}")
            left += value.values()
