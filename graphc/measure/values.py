"""Values: what a program computes on the way, or an .onnx file at its end, by name, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphc.errors import GraphError
from graphc.ir.contract import TensorSpec
from graphc.ir.graph import module_path
from graphc.ir.program import Program
from graphc.ir.quantized import DEQUANTIZE, DYNAMIC, FAKE, QUANTIZE
from graphc.ir.specs import spec_of, symbols_of
from graphc.ir.text import operator_name
from graphc.ir.watch import flat_inputs, walk
from graphc.measure.runnable import DTYPES, made_inputs, named_inputs, open_session

INPUT, OUTPUT = "input ", "output "
"""What keys of inputs and outputs begin with; that of any other value is its name."""


ROUNDING = (FAKE, QUANTIZE, DYNAMIC, DEQUANTIZE)


@dataclass(frozen=True)
class Value:
    """One value.

    Attributes:
        key: its name, or INPUT or OUTPUT and a name of the contract.
        spec: name, dtype and shape.
        module, op: where it is computed, and by what.
        reads: keys of the values that it is computed from.
        rounds: key of the value that this one is, rounded to a few bits; None if it is a value of its own.
    """

    key: str
    spec: TensorSpec
    module: str
    op: str
    reads: tuple[str, ...] = ()
    rounds: str | None = None


class Values(Protocol):
    """Something that computes values from named inputs.

    Attributes:
        name: what to call it.
        inputs, outputs: of the contract.
        values: what can be seen, in the order in which it comes; outputs last.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    values: dict[str, Value]

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs by the names of the contract."""

    def examples(self, dims: Mapping[str, int]) -> dict[str, Any]:
        """Inputs of its own, with dynamic dims of these sizes."""

    def run(self, named: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Values by key; each can be let go before the next is asked for."""


class ProgramValues:
    """Every tensor that a program computes from its inputs."""

    def __init__(self, program: Program, name: str) -> None:
        self.program, self.name = program, name
        self.inputs, self.outputs = program.contract.inputs, program.contract.outputs
        self.values = _values(program)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs in the structure of the example inputs, by name.

        Raises:
            GraphError: they are in another.
        """
        own, named = self.program.example()
        if len(args) != len(own) or set(kwargs) != set(named):
            given, wanted = (
                f"{len(a)} by place, {', '.join(k) or 'none'} by name" for a, k in ((args, kwargs), (own, named))
            )
            raise GraphError(f"{self.name} does not take these inputs", why=f"it takes {wanted}, and there are {given}")
        return dict(zip((s.name for s in self.inputs), flat_inputs(self.program, args, kwargs), strict=True))

    def examples(self, dims: Mapping[str, int]) -> dict[str, Any]:
        """The example inputs.

        Raises:
            GraphError: a dynamic dim is not known.
        """
        return self.named(*self.program.contract.resized(**dims))

    def run(self, named: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Values in graph order, the outputs last."""
        leaves, tree = pytree.tree_flatten(self.program.example())
        own = dict(zip((s.name for s in self.inputs), leaves, strict=True))
        args, kwargs = pytree.tree_unflatten([{**own, **named}[s.name] for s in self.inputs], tree)
        inputs = (INPUT + s.name for s in self.inputs)
        for node, _, _, value in walk(self.program, args, kwargs):
            if node.op == "output":
                for spec, output in zip(self.outputs, pytree.tree_leaves(value), strict=True):
                    if isinstance(output, torch.Tensor):
                        yield OUTPUT + spec.name, output
            else:
                key = next(inputs) if node.op == "placeholder" else node.name
                if key in self.values:
                    yield key, value
            del value


class OnnxValues:
    """The outputs of an .onnx file, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        self.session, self.name = open_session(path), path.name
        self.inputs = tuple(_onnx_spec(value, path) for value in self.session.get_inputs())
        self.outputs = tuple(_onnx_spec(value, path) for value in self.session.get_outputs())
        self.values = {OUTPUT + spec.name: Value(OUTPUT + spec.name, spec, "", "output") for spec in self.outputs}

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs in the order of the file or by name."""
        found = named_inputs(self.session, args, kwargs)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def examples(self, dims: Mapping[str, int]) -> dict[str, Any]:
        """Inputs that are made up.

        Raises:
            GraphError: the size of a dynamic dim is not given, or there is no such dim.
        """
        made = made_inputs(self.session.get_inputs(), dims, seed=0)
        return {name: torch.from_numpy(value) for name, value in made.items()}

    def run(self, named: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """The outputs."""
        feed = {spec.name: named[spec.name].detach().cpu().numpy() for spec in self.inputs}
        for spec, value in zip(self.outputs, self.session.run(None, feed), strict=True):
            yield OUTPUT + spec.name, torch.from_numpy(value)


def _onnx_spec(value: Any, path: Path) -> TensorSpec:
    if value.type not in DTYPES:
        raise GraphError(f"cannot compare {path.name}", where=value.name, why=f"it is a {value.type}")
    dtype = torch.from_numpy(DTYPES[value.type](0).reshape(1)).dtype
    return TensorSpec(value.name, dtype, tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape))


def _values(program: Program) -> dict[str, Value]:
    """Inputs, the tensors that are computed from them, and outputs."""
    symbols = symbols_of(program.graph, program.contract)
    inputs = iter(program.contract.inputs)
    found: dict[str, Value] = {}
    seen_in: dict[Node, tuple[str, ...]] = {}  # what a node is, or is taken from as it is
    for node in program.graph.nodes:
        reads = tuple(dict.fromkeys(key for n in node.all_input_nodes for key in seen_in.get(n, ())))
        spec = next(inputs) if node.op == "placeholder" else spec_of(node.name, node.meta.get("val"), symbols)
        key = INPUT + spec.name if node.op == "placeholder" else node.name
        computed = node.op == "call_function" and reads and not _is_dynamic(node)
        if spec.dtype is not None and (node.op == "placeholder" or computed):
            rounds = _rounded(node, seen_in)
            found[key] = Value(key, spec, module_path(node), operator_name(node), reads, rounds)
            seen_in[node] = (key,)
        elif isinstance(node.meta.get("val"), (tuple, list)) or _is_dynamic(node):
            seen_in[node] = reads
    output = program.graph.output_node()
    for spec, leaf in zip(program.contract.outputs, pytree.tree_leaves(output.args[0]), strict=True):
        if spec.dtype is not None:
            key = OUTPUT + spec.name
            found[key] = Value(key, spec, "", "output", seen_in.get(leaf, ()))
    return found


def _rounded(node: Node, keys: Mapping[Node, tuple[str, ...]]) -> str | None:
    """The key of the value that a node makes integers of and real again."""
    source = node
    while source.target in ROUNDING or _is_dynamic(source):
        source = source.args[0]  # type: ignore[assignment] # a tensor by the schemas
    return keys[source][0] if node.target in (FAKE, DEQUANTIZE) and source in keys else None


def _is_dynamic(node: Node) -> bool:
    """Is it one of the results of a dynamic quantisation?"""
    first = node.args[0] if node.args else None
    return isinstance(first, Node) and first.target is DYNAMIC
