"""Profiles of torch.compile: kernels that inductor writes, and which nodes of the program each computes.

Inductor notes which nodes of its last graph went into a kernel, and which of its first graph those came from. That
first graph is what dynamo traced: the program's nodes in the program's order, but for those that compute sizes.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._inductor import config, debug
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch.fx import GraphModule, Node

from graphc.ir.edit import constants
from graphc.ir.program import Program
from graphc.measure.profile import Op, Profile, typical
from graphc.measure.profile_torch import Work, milliseconds, op_of, profiler, synchronize, tensor_nodes, work_of

REGION = "## Call CompiledFxGraph"
"""What inductor's own name of a run of a compiled graph begins with."""
EXTERN = re.compile(r"^(?:extern_kernels|aten|torch\.ops\.\w+|\w+)\.(\w+)")
NO_NAMES = "torch.compile did not say which nodes its kernels are of"


class _Compiler:
    """Inductor, and what it notes of its kernels."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.kernels: dict[str, list[Node]] = {}

    def __call__(self, traced: GraphModule, inputs: Sequence[Any]) -> Any:
        """The backend of torch.compile."""
        known = self.names(traced)

        def inner(*args: Any, **kwargs: Any) -> Any:
            compiled = compile_fx_inner(*args, **kwargs)
            noted = debug.dump_inductor_provenance_info()
            before = noted.get("postToPre", {})
            for kernel, nodes in noted.get("cppCodeToPost", {}).items():
                names = dict.fromkeys(name for node in nodes for name in before.get(node, ()))
                self.kernels[kernel] = [known[name] for name in names if name in known]
            return compiled

        return compile_fx(traced, list(inputs), inner_compile=inner)

    def names(self, traced: GraphModule) -> dict[str, Node]:
        """Nodes of the program by their names in what dynamo traced; none if the two are not alike."""
        there = [node for node in traced.graph.nodes if node.op == "call_function"]
        own = list(tensor_nodes(self.program))
        alike = len(there) == len(own) and all(a.target == b.target for a, b in zip(there, own, strict=True))
        return {a.name: b for a, b in zip(there, own, strict=True)} if alike else {}


def profile_inductor(program: Program, sizes: Mapping[str, int], device: str, warmup: int, repeat: int) -> Profile:
    """Compile a program with torch.compile, and run it under torch.profiler; arguments as for ``profile_eager``."""
    args, kwargs = program.contract.resized(**sizes)
    compiler = _Compiler(program)
    noting = {"cpp.enable_kernel_profile": True, "fx_graph_cache": False, "trace.provenance_tracking_level": 1}
    runs: list[float] = []
    torch.compiler.reset()
    with torch.inference_mode(), config.patch(noting):
        run = torch.compile(program.module, backend=compiler, dynamic=False)
        for _ in range(max(1, warmup)):
            run(*args, **kwargs)
        with profiler(device) as found:
            for _ in range(repeat):
                begin = time.perf_counter()
                run(*args, **kwargs)
                synchronize(device)
                runs.append(1000 * (time.perf_counter() - begin))
    torch.compiler.reset()
    spent: dict[int, list[float]] = defaultdict(list)
    names: list[tuple[str, str]] = []
    for region in (event for event in found.events() if event.name.startswith(REGION)):
        called = _called(region.cpu_children, compiler.kernels)
        names = [(event.name, kernel) for event, kernel in called]
        for i, (event, _) in enumerate(called):
            spent[i].append(milliseconds(event, device))
    times = [typical(spent[i]) for i in range(len(names))]
    ops = _ops(names, times, compiler.kernels, work_of(program, sizes), set(constants(program.graph)))
    return Profile(typical(runs), tuple(ops), "" if any(compiler.kernels.values()) else NO_NAMES)


def _called(events: Sequence[Any], kernels: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """Events of a run, each with the kernel that it is of: both come in the order in which they were written."""
    found, left = [], list(kernels)
    for event in events:
        place = next((i for i, kernel in enumerate(left) if _base(kernel) in event.name), None)
        found.append((event, left[place] if place is not None else ""))
        if place is not None:
            del left[: place + 1]
    return found


def _base(kernel: str) -> str:
    """What a kernel is called in the profile: ``extern_kernels.addmm:1`` is ``aten::addmm``."""
    name = kernel.rpartition(":")[0]
    extern = EXTERN.match(name)
    words = name.removesuffix(".default").split(".")
    return words[-1] if name.startswith("torch.ops") else extern.group(1) if extern else name


def _ops(
    names: Sequence[tuple[str, str]],
    times: Sequence[float],
    kernels: Mapping[str, Sequence[Node]],
    work: Mapping[Node, Work],
    fixed: set[Node],
) -> list[Op]:
    """Ops; the work of a node is done by one kernel alone."""
    homes: dict[Node, str] = {}
    for node in work:
        of = [kernel for kernel, nodes in kernels.items() if node in nodes]
        if of:  # products are in libraries; a kernel also names nodes of which it reads results
            homes[node] = min(of, key=lambda k: (work[node].macs > 0 and "fused" in k, len(kernels[k])))
    found = []
    for (event, kernel), ms in zip(names, times, strict=True):
        nodes = [node for node in kernels.get(kernel, ()) if node in work]
        does = {node for node in nodes if homes[node] == kernel}
        found.append(op_of(kernel or event, event, nodes, does, work, fixed, ms))
    return found
