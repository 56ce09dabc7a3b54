"""Parameters and multiply-accumulates as polynomials in the sizes of axes.

Each tensor has as many entries as the product of its dims, each op takes as many
multiply-accumulates (MACs; 1 MAC = 2 FLOPs) as the product of the axes it runs over. Both are
kept in factored form, so their value at any sizes is exact and costs microseconds. MACs count
convolutions, linear layers, matrix products, attention and einsum: what is bound by arithmetic.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphc.axes.axis import Axis, measure
from graphc.coupling.flow import Analysis
from graphc.errors import GraphError, nearest
from graphc.ir.graph import module_path
from graphc.ir.program import Program
from graphc.ir.quantized import packed


@dataclass(frozen=True)
class Budget:
    """What a program costs at given axis sizes.

    Attributes:
        params: entries of all parameters, tied ones once; two in each byte that keeps two.
        macs: multiply-accumulates of one run.
        bytes: memory of all parameters, buffers and constants.
    """

    params: int
    macs: int
    bytes: int


def budget(analysis: Analysis, sizes: Mapping[Axis, int] | None = None, **dims: int) -> Budget:
    """Evaluate the polynomials.

    Args:
        analysis: of the program.
        sizes: new sizes of some leaf axes; the others keep theirs.
        dims: sizes of dynamic dims by name (``batch=1``); the others are those of the example.

    Raises:
        GraphError: a name is not a dynamic dim of the program.
    """
    at = dict(sizes or {})
    at.update(dynamic_sizes(analysis, dims))
    params = total_bytes = 0
    tensors, halves = analysis.program.tensors(), packed(analysis.program.graph)
    for name, layout in analysis.tensors.items():
        entries = math.prod(measure(axis, at) for axis in layout)
        total_bytes += entries * tensors[name].element_size()
        if isinstance(tensors[name], torch.nn.Parameter):
            params += entries * (2 if name in halves else 1)
    macs = sum(math.prod(measure(axis, at) for axis in cost.axes) for cost in analysis.costs)
    return Budget(params, macs, total_bytes)


def work(analysis: Analysis, **dims: int) -> dict[str, int]:
    """Multiply-accumulates by the path of the module that does them, in graph order; arguments as for ``budget``."""
    at = dynamic_sizes(analysis, dims)
    found: dict[str, int] = defaultdict(int)
    for cost in analysis.costs:
        found[module_path(cost.node)] += math.prod(measure(axis, at) for axis in cost.axes)
    return dict(found)


def one_sample(program: Program) -> dict[str, int]:
    """``{"batch": 1}`` with the program's own name for dim 0 of its inputs, if that is dynamic."""
    first = [spec.shape[0] for spec in program.contract.inputs if spec.shape]
    return {first[0]: 1} if first and isinstance(first[0], str) else {}


def dynamic_sizes(analysis: Analysis, dims: Mapping[str, int]) -> dict[Axis, int]:
    """The sizes of the axes that dynamic dims are.

    Raises:
        GraphError: a name is not a dynamic dim of the program.
    """
    contract = analysis.program.contract
    known = contract.dims()
    for name in dims:
        if name not in known:
            raise GraphError(f"no dynamic dim is called {name!r}", hint=nearest(name, known))
    placeholders = [n for n in analysis.program.graph.nodes if n.op == "placeholder"]
    found: dict[Axis, int] = {}
    for node, spec in zip(placeholders, contract.inputs, strict=True):
        for axis, dim in zip(analysis.values[node] or (), spec.shape, strict=False):
            if isinstance(dim, str) and dim in dims and axis is not None:
                found[axis.root()] = dims[dim]
    return found
