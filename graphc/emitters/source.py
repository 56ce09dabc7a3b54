"""Source: a generated model.py is read as what it is, lines of ops; anything else in it is not run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NoReturn

import torch

from graphc.emitters.codegen import HEADER, LOAD, LOAD_SHARDS
from graphc.emitters.spelling import FUNCTIONS, METHODS, NAMESPACES
from graphc.emitters.trust import FILES, is_op, refuse
from graphc.emitters.words import PLAIN

IMPORTS = """
from __future__ import annotations
import math
import operator
from pathlib import Path
from typing import NoReturn
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
aten = torch.ops.aten
"""
SPECIAL = ("F.embedding", "F.layer_norm", "F.batch_norm", "F.dropout")
"""Functions that spelling writes with arguments in another order."""
CALLED = (*METHODS.values(), "to")
"""Methods of tensors."""
NUMBERS = ("float('nan')", "float('inf')", "float('-inf')", "next(self.parameters()).device")
PARTS = (
    ast.Name, ast.Constant, ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.Dict, ast.BinOp, ast.UnaryOp,
    ast.Compare, ast.keyword, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context,
)  # fmt: skip
"""What an expression may consist of, besides calls and attributes."""


def _template() -> dict[str, str]:
    """The parts of a generated file that are the same in all, by name."""
    slots = dict.fromkeys(("version", "weights", "history", "imports", "inputs", "outputs", "parameters"), "")
    tree = ast.parse(HEADER.format(**slots, tensors="        pass", body="        pass"))
    named = [node for part in ast.walk(tree) if isinstance(part, (ast.Module, ast.ClassDef)) for node in part.body]
    return {node.name: ast.dump(node) for node in named if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def check_source(path: Path) -> None:
    """See that a model.py is one that graphc writes: declarations of tensors, and ops in a row.

    Raises:
        HostileError: it does something else; says at which line.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        refuse(path, f"it is no Python: {error}")
    allowed = {ast.dump(node) for node in ast.parse(IMPORTS + "\n".join(filter(None, NAMESPACES.values()))).body}
    template = _template()
    allowed |= {template["Tensors"], *(ast.dump(ast.parse(text).body[0]) for text in (LOAD, LOAD_SHARDS))}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Model":
            _check_model(node, template, path)
        elif not _docstring(node) and ast.dump(node) not in allowed:
            _refuse(node, path)


def _check_model(model: ast.ClassDef, template: dict[str, str], path: Path) -> None:
    if ast.unparse(model).split("\n")[0] != "class Model(Tensors):" or model.decorator_list:
        _refuse(model, path)
    for node in model.body:
        name = getattr(node, "name", "")
        if isinstance(node, ast.FunctionDef) and name in ("__init__", "forward") and not node.decorator_list:
            (_check_declarations if name == "__init__" else _check_forward)(node, path)
        elif not _docstring(node) and ast.dump(node) != template.get(name):
            _refuse(node, path)


def _docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _check_declarations(function: ast.FunctionDef, path: Path) -> None:
    """``self.parameter(...)`` and ``self.buffer(...)`` with plain values."""
    if ast.unparse(function.args) != "self" or ast.unparse(function.body[0]) != "super().__init__()":
        _refuse(function, path)
    for node in function.body[1:]:
        if isinstance(node, ast.Pass):
            continue
        call = node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call) or ast.unparse(call.func) not in ("self.parameter", "self.buffer"):
            _refuse(node, path)
        values = [*call.args, *(word.value for word in call.keywords)]
        if not all(isinstance(value, ast.Constant) or _of_torch(value) for value in values):
            _refuse(node, path)


def _check_forward(function: ast.FunctionDef, path: Path) -> None:
    """Assignments to variables and one return; what stands there consists of ops."""
    given = function.args
    if given.defaults or given.kw_defaults or any(one.annotation for one in given.args) or function.returns:
        _refuse(function, path)
    for node in function.body:
        simple = isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets)
        if isinstance(node, ast.Pass) or _docstring(node):
            continue
        if not (simple or isinstance(node, ast.Return)) or node.value is None:  # type: ignore[attr-defined] # either has one
            _refuse(node, path)
        _check_value(node.value, path)  # type: ignore[attr-defined] # as above


def _check_value(value: ast.expr, path: Path) -> None:
    left: list[ast.AST] = [value]
    while left:
        node = left.pop()
        if isinstance(node, ast.expr) and (ast.unparse(node) in NUMBERS or _of_torch(node)):
            continue
        if isinstance(node, ast.Call):
            if not _is_op(node.func):
                _refuse(node, path)
            left += [*node.args, *node.keywords]
            if isinstance(node.func, ast.Attribute) and node.func.attr in CALLED:
                left.append(node.func.value)
            continue
        if isinstance(node, ast.Attribute):
            if node.attr.startswith("__") or not isinstance(node.ctx, ast.Load):
                _refuse(node, path)
            left.append(node.value)
            continue
        if not isinstance(node, PARTS) or (isinstance(node, ast.Name) and re.fullmatch(r"__\w+__", node.id)):
            _refuse(node, path)
        left += ast.iter_child_nodes(node)


def _is_op(function: ast.expr) -> bool:
    """Is this called by its name, as generated files do: an op, a function of the tables, a method of tensors?"""
    name = ast.unparse(function)
    if name in (*FUNCTIONS.values(), *SPECIAL):
        return True
    if re.fullmatch(r"aten\.\w+(\.\w+)?", name):
        return name.split(".")[1] not in FILES
    if re.fullmatch(r"torch\.ops\.\w+\.[a-z]\w*(\.\w+)?", name):
        return name.split(".")[2] in NAMESPACES
    if is_op(name):
        return True
    root = function
    while isinstance(root, (ast.Attribute, ast.Subscript)):
        root = root.value
    modules = ("torch", "F", "aten", "nn", "math", "operator", "Path", "load_file")
    of_module = isinstance(root, ast.Name) and root.id in modules
    return isinstance(function, ast.Attribute) and function.attr in CALLED and not of_module


def _of_torch(value: ast.expr) -> bool:
    """A dtype, a layout or a memory format."""
    plain = isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "torch"
    return plain and isinstance(getattr(torch, ast.unparse(value).partition(".")[2], None), PLAIN)


def _refuse(node: ast.AST, path: Path) -> NoReturn:
    line = getattr(node, "lineno", 0)
    refuse(
        path,
        f"line {line} is none that graphc writes: {ast.unparse(node).splitlines()[0][:80]!r}",
        "what a generated file may do is declare tensors and call ops; import it yourself if it was changed by hand",
    )
