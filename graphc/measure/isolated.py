"""Blocks timed apart from their program: many in one ONNX file, run by onnxruntime, whose profiler times each op.

In the file every block reads a value that an op before it has just computed, as in the program, in the layout that
it has there; the weights of all other blocks lie between two runs of one, so that they come from memory as they do
in a model. Convolutions of onnxruntime compute with channels in blocks (NCHWc) on many CPUs: the ops that change to
this layout and back are timed apart from the block, and whether its outputs are in it is told.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import GraphProto, NodeProto
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphc.emitters.onnx import OnnxEmitter
from graphc.errors import GraphError
from graphc.ir.contract import Contract, TensorSpec
from graphc.ir.graph import attribute
from graphc.ir.program import Program
from graphc.measure.blocks import Block, Blocks, is_value
from graphc.measure.profile import typical
from graphc.measure.runnable import make_session, session_options, write_optimised

aten = torch.ops.aten
TOGETHER, MOST_BYTES = 32, 2**29
"""Blocks in one file, and what their weights may take; a block that takes more is alone."""
REORDER = ("ReorderInput", "ReorderOutput")
"""onnxruntime's ops that change the layout."""


@dataclass(frozen=True)
class Timing:
    """What a block takes by itself.

    Attributes:
        ms: milliseconds of its ops, without changes of layout of what it reads and gives.
        ops: how many there are.
        reads_ms: milliseconds to change the layout of each input to the one it wants; 0 if it takes it as it is.
        blocked: for each output, whether its channels are in blocks.
    """

    ms: float
    ops: int
    reads_ms: tuple[float, ...]
    blocked: tuple[bool, ...]


@dataclass(frozen=True)
class Job:
    """A block to be timed.

    Attributes:
        blocks: the program that it is of.
        block: the block.
        layouts: for each input, whether its channels are in blocks.
    """

    blocks: Blocks
    block: Block
    layouts: tuple[bool, ...]


def time_blocks(
    jobs: Sequence[Job],
    threads: int,
    warmup: int = 3,
    repeat: int = 16,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Iterator[list[tuple[Job, Timing]]]:
    """Time blocks, some at once.

    Raises:
        GraphError: a block cannot be written as ONNX or run.
    """
    done = 0
    for lot in _lots(jobs):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "blocks.onnx"
            program = _together(lot)
            OnnxEmitter().write(program, path)
            given = zip(program.contract.inputs, program.contract.args, strict=True)
            graph, spent = profile(path, {spec.name: value.numpy() for spec, value in given}, threads, warmup, repeat)
        yield [(job, _timing(graph, spent, number, job)) for number, job in enumerate(lot)]
        done += len(lot)
        progress(done, len(jobs))


def _lots(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs that fit into one file."""
    lot: list[Job] = []
    taken = 0
    for job in jobs:
        own = job.blocks.bytes(job.block)
        if lot and (len(lot) == TOGETHER or taken + own > MOST_BYTES):
            yield lot
            lot, taken = [], 0
        lot.append(job)
        taken += own
    if lot:
        yield lot


def _together(jobs: Sequence[Job]) -> Program:
    """One program of many blocks that have nothing to do with each other."""
    write = _Writer()
    for number, job in enumerate(jobs):
        write.block(number, job)
    return write.program()


class _Writer:
    """Writes blocks into one graph."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.tensors: dict[str, torch.Tensor] = {}
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, Node] = {}
        self.random = torch.Generator().manual_seed(0)
        self.mark = self.graph.create_node("get_attr", "mark")  # inputs come before it

    def block(self, number: int, job: Job) -> None:
        """Write a block, what gives it its inputs, and what reads its outputs."""
        new: dict[Node, Node] = {}
        for index, (node, blocked) in enumerate(zip(job.block.inputs, job.layouts, strict=True)):
            new[node] = self.source(f"{number}_{index}", job.blocks.shape(node), node.meta["val"].dtype, blocked)
        for node in job.block.nodes:
            new[node] = self.copy(node, new, number, job.blocks)
        self.outputs |= {f"y{number}_{index}": new[node] for index, node in enumerate(job.block.outputs)}

    def source(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, blocked: bool) -> Node:
        """A value that was just computed: by a convolution if its channels are to be in blocks."""
        if blocked:
            given = self.input(f"x{name}", torch.randn(shape[0], 3, *shape[2:], generator=self.random))
            weight = self.tensor(torch.randn(shape[1], 3, 1, 1, generator=self.random) / 3)
            made = self.graph.create_node("call_function", aten.conv2d.default, (given, weight), name=f"p{name}")
            made.meta["val"] = torch.empty(shape, device="meta")
            # a second reader, so that what follows is not computed within this convolution
            pool = (made, [1, 1], list(shape[2:]))
            self.outputs[f"z{name}"] = self.graph.create_node("call_function", aten.max_pool2d.default, pool)
            return made
        if not dtype.is_floating_point:
            # integers are zeros, which are valid as tokens, positions and indices of all that has any
            below = 2 if dtype == torch.bool else 1
            return self.input(f"x{name}", torch.randint(0, below, shape, generator=self.random).to(dtype))
        given = self.input(f"x{name}", torch.randn(shape, generator=self.random).to(dtype))
        made = self.graph.create_node("call_function", aten.neg.default, (given,), name=f"p{name}")
        made.meta["val"] = given.meta["val"]
        return made

    def input(self, name: str, value: torch.Tensor) -> Node:
        """An input of the whole."""
        self.inputs[name] = value
        with self.graph.inserting_before(self.mark):
            node = self.graph.create_node("placeholder", name)
        node.meta["val"] = value.to("meta")
        return node

    def tensor(self, value: torch.Tensor) -> Node:
        """A parameter of its own; one without values gets some."""
        name = f"w{len(self.tensors)}"
        self.tensors[name] = torch.nn.Parameter(value, requires_grad=False)
        node = self.graph.create_node("get_attr", name)
        node.meta["val"] = value.to("meta")
        return node

    def copy(self, node: Node, new: dict[Node, Node], number: int, blocks: Blocks) -> Node:
        """A node of the program with numbers for sizes, and with the constants that it reads."""
        if node.op == "get_attr":
            return self.tensor(self.values(attribute(blocks.program.module, str(node.target))))

        def argument(source: Node) -> Any:
            if source not in new and not is_value(source):
                return blocks.number(source.meta["val"])
            if source not in new:
                new[source] = self.copy(source, new, number, blocks)
            return new[source]

        args = torch.fx.map_arg(node.args, argument)
        kwargs = torch.fx.map_arg(node.kwargs, argument)
        copy = self.graph.create_node("call_function", node.target, args, kwargs, name=f"b{number}_{node.name}")
        copy.meta["val"] = pytree.tree_map_only(torch.Tensor, blocks.like, node.meta["val"])
        return copy

    def values(self, like: torch.Tensor) -> torch.Tensor:
        """A tensor's own values; of one on the meta device, some that keep numbers in range."""
        if like.device.type != "meta":
            return like.detach()
        if not like.is_floating_point():
            return torch.zeros(like.shape, dtype=like.dtype)
        noise = torch.rand(like.shape, generator=self.random)
        scale = (like[0].numel() ** 0.5) if like.dim() > 1 else 1.0
        return ((noise - 0.5) / scale if like.dim() > 1 else noise + 0.5).to(like.dtype)

    def program(self) -> Program:
        """The whole."""
        self.graph.erase_node(self.mark)
        results = tuple(self.outputs.values())
        self.graph.output(results)
        args = tuple(self.inputs.values())
        trees = (pytree.tree_structure((args, {})), pytree.tree_structure(results))
        self.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(list(self.inputs), *trees)))
        module = GraphModule(self.tensors, self.graph, "Blocks")
        specs = tuple(TensorSpec(name, value.dtype, tuple(value.shape)) for name, value in self.inputs.items())
        outputs = tuple(TensorSpec(name, torch.float32, ()) for name in self.outputs)
        return Program(module, Contract(specs, outputs, args, {}, {}))


def profile(
    path: Path, feed: Mapping[str, Any], threads: int, warmup: int, repeat: int
) -> tuple[GraphProto, dict[str, float]]:
    """The graph as onnxruntime runs it, and the milliseconds of each op by the name of its first output.

    Raises:
        GraphError: onnxruntime cannot run the file, or runs other ops than it wrote.
    """
    options = session_options(threads)
    written = write_optimised(options, path.parent)
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_name("profile"))
    session = make_session(path, options)
    values = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feed.items()}
    for _ in range(warmup + repeat):
        session.run_with_ort_values(None, values)  # its results are not copied
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    graph = onnx.load(str(written), load_external_data=False).graph
    count = len(graph.node)
    if [e["args"]["op_name"] for e in runs] != [node.op_type for node in graph.node] * (warmup + repeat):
        why = f"{count} ops in the optimised file, {len(runs) / (warmup + repeat):g} in the profile of a run"
        raise GraphError("onnxruntime's profile does not fit the ops that it says it runs", where=path.name, why=why)
    samples = np.array([e["dur"] for e in runs], dtype=float).reshape(-1, count)[warmup:] / 1000
    return graph, {node.output[0]: typical(times) for node, times in zip(graph.node, samples.T, strict=True)}


def _timing(graph: GraphProto, spent: Mapping[str, float], number: int, job: Job) -> Timing:
    """Find one block's ops in the whole, from its outputs up to what gives it its inputs."""
    makers = {name: node for node in graph.node for name in node.output}
    sources = {f"x{number}_{i}": i for i in range(len(job.layouts))}
    ends = [makers.get(f"y{number}_{i}") for i in range(len(job.block.outputs))]
    blocked = tuple(end is not None and end.op_type == "ReorderOutput" for end in ends)
    left = [end.input[0] if end.op_type == "ReorderOutput" else end.output[0] for end in ends if end is not None]
    found: dict[str, NodeProto] = {}
    while left:
        node = makers.get(left.pop())
        if node is not None and node.output[0] not in found and _made_from(node, sources) is None:
            found[node.output[0]] = node
            left += node.input
    ms, ops, reads = 0.0, 0, [0.0] * len(job.layouts)
    for name, node in found.items():
        index = _made_from(makers.get(node.input[0]), sources) if node.op_type in REORDER else None
        if index is None:
            ms, ops = ms + spent[name], ops + 1
        else:
            reads[index] += spent[name]
    return Timing(ms, ops, tuple(reads), blocked)


def _made_from(node: NodeProto | None, sources: Mapping[str, int]) -> int | None:
    """The number of the block's input that a node makes from the file's own."""
    if node is None or node.op_type not in ("Conv", "Neg"):
        return None
    return sources.get(node.input[0])
