"""The folder emitter: a generated model.py, its weights, and what graphc needs to read it back."""

from __future__ import annotations

import importlib.util
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from graphc.emitters.base import FOLDER, Emitter
from graphc.emitters.codegen import generate
from graphc.emitters.equality import Runner
from graphc.emitters.exporting import export, in_plain_ops, own_memory
from graphc.emitters.naming import renamed
from graphc.emitters.record import describe, read_record, restore, specs
from graphc.emitters.shards import SHARD_SIZE, bytes_of, write_tensors
from graphc.emitters.source import check_source
from graphc.emitters.staging import MARK
from graphc.emitters.trust import check_tree, refuse
from graphc.errors import EmitError
from graphc.ir.checkpoint import read_checkpoint
from graphc.ir.contract import Contract
from graphc.ir.hollow import bind, open_model, stand_in, without_memory
from graphc.ir.lazy import is_lazy
from graphc.ir.program import Program

SOURCE, EXAMPLES = "model.py", "example_inputs.safetensors"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""Of one of these names: the weights, or the index of their shards."""
SHARDS = "model-*.safetensors"


@dataclass(frozen=True, kw_only=True)
class FolderEmitter(Emitter):
    """Writes a folder that runs with torch and safetensors alone: ``from model import load``.

    ``model.py`` is a module whose tensors have their original names and whose forward is one op a
    line; ``model.safetensors`` has each tensor once, or shards do, with an index in the layout of Hugging Face.
    ``program.json`` and ``example_inputs.safetensors`` are for ``graphc.load``. Nothing is pickled. Dropout and
    batch norm follow the module's ``train()`` and ``eval()``. Lazy tensors are copied, and the model is run to
    prove it, with one of them in memory at a time.

    Attributes:
        shard_size: the most bytes of tensors in one file: a number, or text like ``5GB``.
    """

    suffix: ClassVar[str] = FOLDER
    lazy: ClassVar[bool] = True
    shard_size: int | str = SHARD_SIZE

    def __post_init__(self) -> None:
        """Check the size."""
        bytes_of(self.shard_size)

    def write(self, program: Program, path: Path) -> None:
        """Write the files.

        Raises:
            EmitError: an op, an input or a dtype cannot be written.
        """
        plain = in_plain_ops(program)
        leaves, tree = pytree.tree_flatten((program.contract.args, dict(program.contract.kwargs)))
        record = describe(program)
        record["example"] = {
            "tree": json.loads(pytree.treespec_dumps(tree)),
            "constants": {str(i): _constant(v) for i, v in enumerate(leaves) if not isinstance(v, torch.Tensor)},
        }
        sources = [generate(plain, sharded) for sharded in (False, True)]
        path.mkdir()
        files = write_tensors(program.tensors(), path, self.shard_size)
        (path / SOURCE).write_text(sources[len(files) > 1], encoding="utf-8")
        (path / MARK).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _save({str(i): v for i, v in enumerate(leaves) if isinstance(v, torch.Tensor)}, path / EXAMPLES)

    def open(self, program: Program, path: Path) -> Runner:
        """Import model.py anew and load the weights, on the device of the program's inputs."""
        if is_lazy(program.tensors()):
            model = _lazily(path)
        else:
            model = _import(path).load(path)
            leaves = pytree.tree_leaves(program.example())
            model.to(next((leaf.device for leaf in leaves if isinstance(leaf, torch.Tensor)), torch.device("cpu")))
        return lambda args, kwargs: model(*args, **kwargs)

    def load(self, path: Path) -> Program:
        """Trace model.py again with the saved example inputs.

        Raises:
            EmitError: it is no folder of ours, or no longer what its record says.
        """
        return _traced(path, lambda: _import(path).load(path))

    def load_lazily(self, path: Path) -> Program:
        """The same, while all weights stay in their files.

        Raises:
            GraphError: it is no folder of ours, or no longer what its record says.
        """
        models: list[nn.Module] = []

        def make() -> nn.Module:
            models.append(_hollow(path))
            stand_in(models[0])
            return models[0]

        program = _traced(path, make)
        return bind(program, models[0], read_checkpoint(path))


def _traced(path: Path, make: Callable[[], nn.Module]) -> Program:
    """The program of a folder, whose model is made by ``make`` once all of it was seen to be there."""
    weights = next((name for name in WEIGHTS if (path / name).is_file()), WEIGHTS[0])
    names = [MARK, SOURCE, weights, EXAMPLES]
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise EmitError("this is no folder of graphc", where=str(path), why=f"it has no {missing[0]}")
    outside = [name for name in (*names, *(f.name for f in path.glob(SHARDS))) if not _inside(path / name, path)]
    if outside:
        refuse(path, f"{outside[0]} is a link to another place")
    record = read_record((path / MARK).read_text(encoding="utf-8"), path)
    try:
        model = make()
        contract = _contract(record, path)
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise EmitError("the folder is damaged", where=str(path), why=why, hint="emit it again") from error
    program = restore(export(model, contract), record, str(path))
    _place(program.module, path / SOURCE)
    return renamed(program, record.get("values", ()))


def _hollow(path: Path) -> nn.Module:
    """The model of model.py without memory for its parameters."""
    with without_memory():
        model: nn.Module = _import(path).Model()
    return model.eval()


def _lazily(path: Path) -> nn.Module:
    """The model of model.py with weights that are read as they are needed."""
    return open_model(lambda: _import(path).Model(), path)


def _constant(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise EmitError("an input cannot be written", where=type(value).__name__, hint="emit a .pt2 file instead")


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors, each with its own memory."""
    own = {name: value.detach().contiguous() for name, value in own_memory(tensors).items()}
    try:
        save_file(own, path, metadata={"format": "pt"})
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise EmitError(
            "the tensors cannot be written", where=path.name, why=f"{type(error).__name__}: {error}"
        ) from error


def _inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _import(path: Path) -> Any:
    """The module model.py, under a name that no other has; it is run only if it is one that graphc writes.

    Raises:
        EmitError: it is not, or does not import.
    """
    check_source(path / SOURCE)
    spec = importlib.util.spec_from_file_location(f"graphc_generated_{uuid.uuid4().hex}", path / SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, NameError, ImportError, AttributeError) as error:
        raise EmitError("the generated model does not import", where=str(path / SOURCE), why=str(error)) from error
    return module


def _contract(record: Mapping[str, Any], path: Path) -> Contract:
    example = record["example"]
    values: dict[str, Any] = {**load_file(path / EXAMPLES), **example["constants"]}
    text = json.dumps(example["tree"])
    check_tree(text, path)
    tree = pytree.treespec_loads(text)
    args, kwargs = pytree.tree_unflatten([values[str(i)] for i in range(len(values))], tree)
    return Contract(specs(record["inputs"]), specs(record["outputs"]), tuple(args), kwargs, {})


def _place(module: GraphModule, source: Path) -> None:
    """Tell every node the module path of the original: the comment above its line in model.py."""
    paths: list[str] = [""]
    for line in source.read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"        # (\S+)", line)
        paths.append(found[1] if found else paths[-1])
    pattern = re.compile(rf'File "{re.escape(str(source))}", line (\d+)')
    for node in module.graph.nodes:
        lines = pattern.findall(node.meta.get("stack_trace") or "")
        if node.op == "call_function" and lines:
            path = paths[int(lines[-1])]
            node.meta["nn_module_stack"] = {path: ("" if path == "root" else path, "")}
