"""Profiles of PyTorch: a program run node by node under torch.profiler, each node known by its own name."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.fx import Interpreter, Node
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils import _pytree as pytree

from graphc.axes.axis import measure
from graphc.coupling.cost import dynamic_sizes
from graphc.coupling.flow import analyze
from graphc.ir.edit import constants
from graphc.ir.graph import module_path
from graphc.ir.program import Program
from graphc.ir.text import operator_name
from graphc.ir.watch import flat_inputs, walk
from graphc.measure.profile import Op, Profile, typical

aten = torch.ops.aten
MARK = "graphc::"
"""What the profiler's names of nodes begin with."""
PICKS = frozenset({aten.embedding.default, aten.index_select.default, aten.gather.default, aten.index.Tensor})
"""Ops that read only what they give."""


@dataclass(frozen=True)
class Work:
    """What a node has to do at the sizes of one run.

    Attributes:
        macs: multiply-accumulates.
        reads: bytes of each tensor that it reads, by the node that gives it.
        writes: bytes that it gives; 0 where its result is a part of what it reads.
        dtype: of the first numbers that it reads.
    """

    macs: int
    reads: Mapping[Node, int]
    writes: int
    dtype: str


def profile_eager(program: Program, sizes: Mapping[str, int], device: str, warmup: int, repeat: int) -> Profile:
    """Run a program node by node under torch.profiler.

    On CUDA the time of a node is that of its kernels.

    Args:
        program: on its device.
        sizes: of dynamic dims.
        device: where it is.
        warmup, repeat: runs that do not count, and runs that do.
    """
    args, kwargs = program.contract.resized(**sizes)
    flat = flat_inputs(program, args, kwargs)
    marked = _Marked(program.module)
    runs: list[float] = []
    with torch.inference_mode():
        for _ in range(warmup):
            marked.run(*flat, enable_io_processing=False)
        with profiler(device) as found:
            for _ in range(repeat):
                begin = time.perf_counter()
                marked.run(*flat, enable_io_processing=False)
                synchronize(device)
                runs.append(1000 * (time.perf_counter() - begin))
    spent: dict[str, list[float]] = defaultdict(list)
    for event in found.events():
        if event.name.startswith(MARK) and event.device_type == DeviceType.CPU:
            spent[event.name.removeprefix(MARK)].append(
                sum(milliseconds(child, device) for child in event.cpu_children)
            )
    work = work_of(program, sizes)
    fixed = constants(program.graph)
    ops = [
        op_of(node.name, operator_name(node), [node], {node}, work, fixed, typical(spent[node.name]))
        for node in tensor_nodes(program)
        if any(spent[node.name])
    ]
    return Profile(typical(runs), tuple(ops), "run node by node, which takes longer than the program does")


class _Marked(Interpreter):
    """Runs nodes under their names."""

    def run_node(self, n: Node) -> Any:
        with record_function(MARK + n.name):
            return super().run_node(n)


def profiler(device: str) -> profile:
    """torch's profiler of a device."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells of every start, and of devices that are not there
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.startswith("cuda") else [])]
    return profile(activities=activities)


def synchronize(device: str) -> None:
    """Wait until a device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def milliseconds(event: Any, device: str) -> float:
    """What an event took where it counts: on a processor, or its kernels on CUDA."""
    return float(event.device_time_total if device.startswith("cuda") else event.cpu_time_total) / 1000


def work_of(program: Program, sizes: Mapping[str, int]) -> dict[Node, Work]:
    """What every op of a program has to do; runs it once."""
    analysis = analyze(program)
    at = dynamic_sizes(analysis, sizes)
    macs: dict[Node, int] = defaultdict(int)
    for cost in analysis.costs:
        macs[cost.node] += math.prod(measure(axis, at) for axis in cost.axes)
    found, held = {}, {}
    args, kwargs = program.contract.resized(**sizes)
    with torch.inference_mode():
        for node, given, named, value in walk(program, args, kwargs):
            held[node] = _bytes(value)
            if node.op == "call_function":
                inputs = [v for v in pytree.tree_leaves((given, named)) if isinstance(v, torch.Tensor)]
                found[node] = _work(node, inputs, value, macs[node], held)
    return found


def _work(node: Node, inputs: Sequence[torch.Tensor], value: Any, macs: int, held: Mapping[Node, int]) -> Work:
    dtype = next((str(v.dtype).removeprefix("torch.") for v in inputs if v.is_floating_point()), "float32")
    places = {v.untyped_storage()._cdata for v in inputs}
    results = [v for v in pytree.tree_leaves(value) if isinstance(v, torch.Tensor)]
    if not results or all(v.untyped_storage()._cdata in places for v in results):
        return Work(macs, {}, 0, dtype)
    if node.target in PICKS:
        return Work(macs, {}, 2 * _bytes(value), dtype)
    return Work(macs, {source: held[source] for source in node.all_input_nodes}, _bytes(value), dtype)


def _bytes(value: Any) -> int:
    return sum(v.numel() * v.element_size() for v in pytree.tree_leaves(value) if isinstance(v, torch.Tensor))


def op_of(
    name: str,
    kind: str,
    nodes: Sequence[Node],
    does: set[Node],
    work: Mapping[Node, Work],
    fixed: set[Node],
    ms: float,
) -> Op:
    """One op that a runtime runs, of some nodes of the program.

    Args:
        name, kind: the runtime's words.
        nodes: whose modules it is of.
        does: those of them whose work it does.
        work: of every node.
        fixed: nodes that depend on no input.
        ms: milliseconds.
    """
    reads = {source: size for node in does for source, size in work[node].reads.items() if source not in does}
    weights = sum(size for source, size in reads.items() if source in fixed)
    written = sum(work[node].writes for node in does if any(user not in does for user in node.users))
    first = sorted(nodes, key=lambda node: (node not in does, -work[node].macs))
    return Op(
        name,
        kind,
        tuple(dict.fromkeys(filter(None, map(_module, first)))),
        ms,
        sum(work[node].macs for node in does),
        weights,
        sum(reads.values()) - weights + written,
        next((work[node].dtype for node in first if node in does), "float32"),
    )


def _module(node: Node) -> str:
    """The path of the module that a node is of; of a program that was read from a folder, that of its parameters."""
    parameters = (str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
    return module_path(node) or next(parameters, "").rpartition(".")[0]


def tensor_nodes(program: Program) -> Iterator[Node]:
    """Ops that give tensors, in graph order."""
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), (torch.Tensor, list, tuple)):
            yield node
