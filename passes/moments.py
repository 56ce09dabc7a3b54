"""Second moments of what layers read, layer by layer, while the weights of those before become what they will be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch.fx import Node

from graphc.errors import GraphError
from graphc.ir.program import Program
from graphc.ir.watch import Seen, walk

from .affine import Affine
from .calibration import Calibration
from .matrices import columns

Visit = Callable[[str, torch.Tensor], torch.Tensor]


def visit_in_turn(
    program: Program, uses: Mapping[str, Sequence[Affine]], calibration: Calibration, visit: Visit
) -> None:
    """Give ``visit`` each weight's name and second moments; go on with the weight that it gives back.

    The second moments of a layer are ``X X^T``, ``[groups, columns, columns]`` in double precision, of the columns
    that its matrix multiplies in all of the data. Layers come in graph order, each part of the graph is run once for
    each batch: all batches are taken to what the next layers read, and only what is still needed there is held.
    A weight of several layers is visited when the last of them has its inputs, and is as it was until then.

    Args:
        program: stays as it is.
        uses: for each weight the layers that read it; their matrices have one shape.
        calibration: the data.
        visit: takes a weight's name and its second moments, gives its new value.

    Raises:
        GraphError: what a layer reads is not finite.
    """
    held = program.tensors()
    tensors = {name: held[name].detach().clone() for name in uses}
    readers: dict[Node, list[Affine]] = defaultdict(list)
    for layer in (layer for layers in uses.values() for layer in layers):
        readers[layer.data].append(layer)
    stops = [node for node in program.graph.nodes if node in readers]
    waiting = Counter({name: len(layers) for name, layers in uses.items()})
    sums: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        batches = calibration.batches(program, "weights")
        walks = [walk(program, batch.args, batch.kwargs, tensors) for batch in batches]
        for done, stop in enumerate(stops, 1):
            values = (_upto(one, stop) for one in walks)
            for layer, moment in _moments(readers[stop], values, tensors):
                name = layer.weight
                sums[name] = sums[name] + moment if name in sums else moment
                waiting[name] -= 1
                if not waiting[name]:
                    tensors[name].copy_(visit(name, sums.pop(name)))
            calibration.progress(done, len(stops), "weights")


def _upto(one: Iterator[Seen], stop: Node) -> torch.Tensor:
    """Go on with a walk until a node is computed; what it gave."""
    found: torch.Tensor = next(seen.value for seen in one if seen.node is stop)
    return found


def _moments(
    layers: Sequence[Affine], values: Iterator[torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> Iterator[tuple[Affine, torch.Tensor]]:
    """Each of the layers that read a value, with its moments; those that read it in one way share one tensor."""
    shapes = {layer: [tensors[layer.weight].shape[i] for i in layer.order] for layer in layers}
    ways = {layer: _way(layer, shapes[layer]) for layer in layers}
    sums: dict[str, torch.Tensor] = {}
    for value in values:
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        for way, layer in {ways[layer]: layer for layer in layers}.items():
            for part in columns(layer, value, shapes[layer]):
                moment = (part @ part.transpose(1, 2)).double()
                sums[way] = sums[way] + moment if way in sums else moment
    for layer in layers:
        yield layer, _finite(layer, sums[ways[layer]])


def _way(layer: Affine, shape: Sequence[int]) -> str:
    """How a layer reads its data: what its columns depend on."""
    if layer.form.groups is None:
        return ""
    own = shape[1:] if layer.form.rows == 1 else [shape[0], *shape[2:]]
    return f"{layer.node.target} {list(own)} {layer.node.args[layer.form.weight + 2 :]}"


def _finite(layer: Affine, moment: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(moment).all()):
        why = f"what {layer.node.name} reads, {layer.data.name}, has NaN or infinite entries on the calibration data"
        raise GraphError(f"{layer.weight} cannot be rounded by its inputs", where=layer.node.name, why=why)
    return moment
