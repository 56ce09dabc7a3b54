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

Sums = list[torch.Tensor]
"""Of the columns of a layer: ``X X^T``, and ``(X_0 - X) X^T`` where a second program runs beside."""

Visit = Callable[[str, torch.Tensor], torch.Tensor]
"""Given a weight's name and second moments, gives its new value."""
VisitBeside = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
"""Given besides what the weights before have lost: ``(X_0 - X) X^T``, with ``X_0`` as it is with no weight changed."""


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
    _visit(program, uses, calibration, lambda name, sums: visit(name, sums[0]), beside=False)


def visit_beside(
    program: Program, uses: Mapping[str, Sequence[Affine]], calibration: Calibration, visit: VisitBeside
) -> None:
    """As ``visit_in_turn``, with the unchanged program run beside the one that changes.

    It takes twice the time and the memory. ``visit`` is told what the changes before have done to the inputs too.
    """
    _visit(program, uses, calibration, lambda name, sums: visit(name, *sums), beside=True)


def _visit(
    program: Program,
    uses: Mapping[str, Sequence[Affine]],
    calibration: Calibration,
    visit: Callable[[str, Sums], torch.Tensor],
    beside: bool,
) -> None:
    held = program.tensors()
    tensors = {name: held[name].detach().clone() for name in uses}
    readers: dict[Node, list[Affine]] = defaultdict(list)
    for layer in (layer for layers in uses.values() for layer in layers):
        readers[layer.data].append(layer)
    stops = [node for node in program.graph.nodes if node in readers]
    waiting = Counter({name: len(layers) for name, layers in uses.items()})
    sums: dict[str, Sums] = {}
    with torch.no_grad():
        batches = list(calibration.batches(program, "weights"))
        walks = [
            [
                walk(program, batch.args, batch.kwargs, changed)
                for changed in ((tensors, None) if beside else (tensors,))
            ]
            for batch in batches
        ]
        for done, stop in enumerate(stops, 1):
            values = ([_upto(one, stop) for one in pair] for pair in walks)
            for layer, found in _moments(readers[stop], values, tensors):
                name = layer.weight
                sums[name] = [a + b for a, b in zip(sums[name], found, strict=True)] if name in sums else found
                waiting[name] -= 1
                if not waiting[name]:
                    tensors[name].copy_(visit(name, sums.pop(name)))
            calibration.progress(done, len(stops), "weights")


def _upto(one: Iterator[Seen], stop: Node) -> torch.Tensor:
    """Go on with a walk until a node is computed; what it gave."""
    found: torch.Tensor = next(seen.value for seen in one if seen.node is stop)
    return found


def _moments(
    layers: Sequence[Affine], values: Iterator[Sequence[torch.Tensor]], tensors: Mapping[str, torch.Tensor]
) -> Iterator[tuple[Affine, Sums]]:
    """Each of the layers that read a value, with its sums; those that read it in one way share them."""
    shapes = {layer: [tensors[layer.weight].shape[i] for i in layer.order] for layer in layers}
    ways = {layer: _way(layer, shapes[layer]) for layer in layers}
    sums: dict[str, Sums] = {}
    for pair in values:
        wide = [value.to(torch.promote_types(value.dtype, torch.float32)) for value in pair]
        for way, layer in {ways[layer]: layer for layer in layers}.items():
            for part, *whole in zip(*(columns(layer, value, shapes[layer]) for value in wide), strict=True):
                turned = part.transpose(1, 2)
                found = [(part @ turned).double(), *(((other - part) @ turned).double() for other in whole)]
                sums[way] = [a + b for a, b in zip(sums[way], found, strict=True)] if way in sums else found
    for layer in layers:
        yield layer, [_finite(layer, found) for found in sums[ways[layer]]]


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
