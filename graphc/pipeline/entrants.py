"""Entrants of a benchmark: an artifact with a backend that runs it, and the names of its dynamic dims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from graphc.coupling.cost import one_sample
from graphc.emitters.staging import size_of
from graphc.errors import GraphError, nearest
from graphc.ir.masks import make_permanent
from graphc.ir.program import Program
from graphc.measure.onnx_file import check_onnx
from graphc.measure.whole import write_whole
from graphc.pipeline.model import Model

BACKENDS = ("onnxruntime", "eager", "inductor")
BATCH = "batch"
"""What the dim 0 of the first input is called here, whatever its own name."""


@dataclass(frozen=True)
class Entrant:
    """Something to be timed.

    Attributes:
        name: of the artifact.
        backend: ``onnxruntime``, ``eager`` or ``inductor``.
        model: what the user named.
        what: the program, or the path of an ``.onnx`` file.
        dims: names of dynamic dims, as they are called here, and the artifact's own names of them.
        sizes: of those of them that have one if nothing is said: 1 of the batch, the example's of others.
        bytes: of the artifact; None of a recipe.
    """

    name: str
    backend: str
    model: Model
    what: Program | Path
    dims: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    bytes: int | None = None

    def own(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes by the artifact's own names."""
        return {self.dims[name]: size for name, size in sizes.items()}


def find_entrants(models: Sequence[Model], backends: Sequence[str], folder: Path) -> tuple[list[Entrant], list[str]]:
    """Every artifact with every backend that it runs on, and sentences about those that it does not.

    Args:
        models: what the user named.
        backends: those that were asked for; if there are none, onnxruntime for ``.onnx`` files and eager for others.
        folder: where programs are written as ONNX to be run by onnxruntime.

    Raises:
        GraphError: an artifact cannot be read, or nothing is left.
    """
    count = Counter(model.path.name for model in models)
    found: list[Entrant] = []
    skipped: list[str] = []
    for number, model in enumerate(models):
        name = model.path.name if count[model.path.name] == 1 else str(model.path)
        size = None if model.recipe is not None else _bytes(model.path)
        if model.is_onnx:
            others = [backend for backend in backends if backend != "onnxruntime"]
            skipped += [f"{name} does not run with {other}: an .onnx file runs on onnxruntime" for other in others]
            if not backends or "onnxruntime" in backends:
                found.append(Entrant(name, "onnxruntime", model, model.path, *_dims_of_file(model.path), size))
            continue
        program = make_permanent(model.program())
        for backend in backends or ("eager",):
            what: Program | Path = program
            if backend == "onnxruntime":
                what = write_whole(program, folder / f"{number}.onnx")
            found.append(Entrant(name, backend, model, what, *_dims_of_program(program), size))
    if not found:
        raise GraphError("there is nothing to benchmark: " + "; ".join(skipped))
    return found, skipped


def _bytes(path: Path) -> int:
    """What an artifact takes, with the weights of an ``.onnx`` file beside it."""
    beside = path.with_name(path.name + ".data")
    return size_of(path) + (size_of(beside) if path.suffix == ".onnx" and beside.exists() else 0)


def _dims_of_program(program: Program) -> tuple[dict[str, str], dict[str, int]]:
    batch = next(iter(one_sample(program)), None)
    known = program.contract.dims()
    dims = {BATCH if name == batch else name: name for name in known}
    return dims, {name: 1 if name == BATCH else known[own] for name, own in dims.items()}


def _dims_of_file(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    check_onnx(path)
    graph = onnx.load(str(path), load_external_data=False).graph
    constant = {tensor.name for tensor in graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in graph.input if value.name not in constant]
    first = next((shape[0].dim_param for shape in shapes if shape), "")
    names = dict.fromkeys(dim.dim_param for shape in shapes for dim in shape if dim.dim_param)
    dims = {BATCH if name == first else name: name for name in names}
    return dims, ({BATCH: 1} if BATCH in dims else {})


def settle_sizes(entrants: Sequence[Entrant], asked: Mapping[str, int]) -> dict[str, int]:
    """One size for each dim, the same for all: as asked, else as the first of the entrants has it.

    Raises:
        GraphError: an entrant has no such dim, or nothing tells the size of one.
    """
    known: dict[str, int] = {}
    for entrant in entrants:
        known = {**entrant.sizes, **known}
    known |= asked
    for entrant in entrants:
        for name in asked:
            if name not in entrant.dims:
                hint = nearest(name, entrant.dims)
                raise GraphError(f"{entrant.name} has no dynamic dim {name!r}", where="--dims", hint=hint)
        for name in entrant.dims:
            if name not in known:
                hint = f"give --dims {name}=..., or a program beside it that has an example"
                raise GraphError(f"the size of the dim {name!r} of {entrant.name} is not known", hint=hint)
    return {name: size for name, size in known.items() if any(name in entrant.dims for entrant in entrants)}
