"""Targets: ``package.module:callable`` in a recipe, and the models that they give."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphc.emitters.base import load
from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.program import Program

Model = torch.nn.Module | ExportedProgram | Program


def find_target(target: str, where: str) -> Any:
    """The object that ``package.module:name`` (or ``name.attribute``) speaks of.

    Raises:
        RecipeError: the text is no target, the module does not import, or it has no such name.
    """
    module_name, _, name = target.partition(":")
    if not name or not all(part.isidentifier() for part in module_name.split(".")):
        hint = "write package.module:callable"
        raise RecipeError(f"{target!r} is not a target", where=where, hint=hint)
    try:
        value = importlib.import_module(module_name)
    except ImportError as error:
        hint = f"install the package that has {module_name!r}, or run where it can be imported"
        raise RecipeError(f"cannot import {module_name!r}", where=where, why=str(error), hint=hint) from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        hint = "import it in Python, and mend what fails"
        raise RecipeError(f"the module {module_name!r} fails", where=where, why=why, hint=hint) from error
    for part in name.split("."):
        if not hasattr(value, part):
            hint = nearest(part, [n for n in dir(value) if not n.startswith("_")])
            raise RecipeError(f"{module_name!r} has no {name!r}", where=where, hint=hint)
        value = getattr(value, part)
    return value


def call_target(target: str, kwargs: Mapping[str, Any], where: str) -> Any:
    """Call a target; its own failure becomes an error that names it.

    Raises:
        RecipeError: the target is not callable, or fails.
    """
    function = find_function(target, where)
    return _guarded(lambda: function(**kwargs), f"{target}(...)", where)


def find_function(target: str, where: str) -> Callable[..., Any]:
    """The callable that a target speaks of.

    Raises:
        RecipeError: there is none.
    """
    found = find_target(target, where)
    if not callable(found):
        raise RecipeError(f"{target!r} is not callable", where=where, why=f"it is a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def guarded(target: str, where: str) -> Callable[..., Any]:
    """The callable that a target speaks of; when it fails, the error names it.

    Raises:
        RecipeError: there is none, or, later, it fails with something else than a GraphError.
    """
    function = find_function(target, where)

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except GraphError:
            raise
        except Exception as error:
            raise _failed(error, f"{target}(...)", where) from error

    return call


def _guarded(make: Callable[[], Any], what: str, where: str) -> Any:
    try:
        return make()
    except Exception as error:
        raise _failed(error, what, where) from error


def _failed(error: Exception, what: str, where: str) -> RecipeError:
    why = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    return RecipeError(f"{what} failed", where=where, why=why, hint="run it with --debug for the traceback")


def load_model(target: str, kwargs: Mapping[str, Any], where: str = "model") -> Model:
    """A model from a recipe's target.

    Args:
        target: ``package.module:callable`` that gives a module, an ExportedProgram or a path; or a
            path: a ``.pt2`` file, a folder that graphc wrote, a Hugging Face folder or model id.
        kwargs: arguments of the callable, or of ``from_pretrained``.
        where: the recipe key, for messages.

    Raises:
        RecipeError: nothing of the kind exists, or loading it fails.
    """
    path = Path(target)
    if os.path.exists(path):
        return _from_path(path, kwargs, where)
    if ":" in target:
        made = call_target(target, kwargs, where)
        if isinstance(made, (str, Path)):
            return _from_path(Path(made), {}, where)
        if isinstance(made, (torch.nn.Module, ExportedProgram, Program)):
            return made
        why = f"it gave a {type(made).__name__}"
        raise RecipeError(f"{target!r} gives no model", where=where, why=why, hint="it must return an nn.Module")
    if path.suffix or target.count("/") != 1:
        hint = "write package.module:callable, the path of a model, or a Hugging Face id"
        raise RecipeError(f"the model {target!r} does not exist", where=where, hint=hint)
    return _hugging_face(target, kwargs, where)


def _from_path(path: Path, kwargs: Mapping[str, Any], where: str) -> Model:
    if path.suffix == ".pt2" or (path / "program.json").exists():
        return load(path)
    if (path / "config.json").exists():
        return _hugging_face(str(path), kwargs, where)
    hint = "a model is a .pt2 file, a folder that graphc wrote, or a Hugging Face folder with config.json"
    raise RecipeError(f"{str(path)!r} is no model", where=where, hint=hint)


def _hugging_face(name: str, kwargs: Mapping[str, Any], where: str) -> torch.nn.Module:
    transformers = find_target_module("transformers", where)
    transformers.utils.logging.disable_progress_bar()
    kind = _declared(transformers, Path(name))
    model = _guarded(lambda: kind.from_pretrained(name, **kwargs), f"loading {name}", where)
    assert isinstance(model, torch.nn.Module)
    return model


def _declared(transformers: Any, folder: Path) -> Any:
    """The class that the config of a folder names."""
    config = folder / "config.json"
    declared = json.loads(config.read_text()).get("architectures") if config.exists() else None
    return getattr(transformers, declared[0] if declared else "AutoModel", transformers.AutoModel)


def class_of_folder(folder: Path, kwargs: Mapping[str, Any], where: str = "model") -> tuple[Any, Any, dict[str, Any]]:
    """What makes the model of a Hugging Face folder from a config, that config, and arguments that are no fields of it.

    Raises:
        RecipeError: transformers is not installed, or the config cannot be read.
    """
    transformers = find_target_module("transformers", where)
    read = partial(transformers.AutoConfig.from_pretrained, folder, return_unused_kwargs=True, **kwargs)
    config, unknown = _guarded(read, f"the config of {folder}", where)
    kind = _declared(transformers, folder)
    return getattr(kind, "from_config", kind), config, unknown


def find_target_module(name: str, where: str) -> Any:
    """An optional package.

    Raises:
        RecipeError: it is not installed; says which extra has it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = f"pip install 'graphc[{name}]'"
        raise RecipeError(f"this needs the package {name!r}", where=where, why=str(error), hint=hint) from error
