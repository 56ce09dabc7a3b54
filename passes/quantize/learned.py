"""Learned numbers: a program whose rounding is trained with its weights, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import Graph, Node

from graphc.ir.edit import rebuild, unused_name
from graphc.ir.masks import find_masks, make_permanent
from graphc.ir.program import Program
from graphc.ir.quantized import FAKE

from ..contractions import contractions
from .insert import converted, simulated
from .numbers import Numbers, Rounded
from .placement import Point
from .quantization import Quantization

EXP = torch.ops.aten.exp.default


def learnable(quantization: Quantization) -> Program:
    """The program with every rounding in it, differentiable, and the logarithm of every scale a parameter.

    Esser et al. 2020, Learned Step Size Quantization: the gradient passes a rounding as if it were not there,
    within the range, and moves the scale. Its logarithm is learned (Jain et al. 2020, Trained Quantization
    Thresholds), so that an optimiser's step changes small and great scales by the same share.
    """
    values = simulated(quantization.program, quantization.points, quantization.chosen, {})
    masked = {mask.weight: mask.node for mask in find_masks(values)}
    held = values.tensors()
    tensors: dict[str, torch.Tensor] = {}

    def edit(graph: Graph) -> None:
        for name in dict.fromkeys(str(_read(node, 1).target) for node in _roundings(graph)):
            tensors[name] = torch.nn.Parameter(held[name].log())
            _as_logarithm(graph, name)
        for name, found in quantization.rounded.items():
            if not found.blocks:
                node = next(n for n in graph.nodes if n.op == "get_attr" and n.target == name)
                place = next((n for n in graph.nodes if n.name == masked.get(name)), node)
                _round(graph, place, name, found.numbers, tensors, {*held, *tensors})

    return rebuild(values, edit, tensors=tensors)


def _as_logarithm(graph: Graph, name: str) -> None:
    """Read a scale as the exponential of its tensor."""
    node = next(n for n in graph.nodes if n.op == "get_attr" and n.target == name)
    users = list(node.users)
    with graph.inserting_after(node):
        scale = graph.call_function(EXP, (node,))
    for user in users:
        user.replace_input_with(node, scale)


def _round(
    graph: Graph, place: Node, name: str, numbers: Numbers, tensors: dict[str, torch.Tensor], taken: set[str]
) -> None:
    """Put the rounding of a weight behind it."""
    users = list(place.users)
    own = [unused_name(f"{name}{ending}", taken) for ending in ("_scale", "_zero_point")]
    tensors[own[0]] = torch.nn.Parameter(numbers.scale.log())
    tensors[own[1]] = numbers.zero_point.clone()
    with graph.inserting_before(place.next):
        logarithm, zero = (graph.create_node("get_attr", n, name=n.replace(".", "_")) for n in own)
        scale = graph.call_function(EXP, (logarithm,))
        new = graph.call_function(FAKE, (place, scale, zero, numbers.low, numbers.high))
    for user in users:
        user.replace_input_with(place, new)


def _roundings(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.target is FAKE]


def _read(node: Node, index: int) -> Node:
    found = node.args[index]
    assert isinstance(found, Node)
    return found


def scales(program: Program) -> list[str]:
    """Names of the tensors that hold the scales of all roundings."""
    return list(dict.fromkeys(str(_read(_read(node, 1), 0).target) for node in _roundings(program.graph)))


def learned(program: Program) -> Program:
    """A program with roundings in it as one of integers, with the scales that it has learned."""
    program = make_permanent(program)
    tensors = program.tensors()
    rounded: dict[str, Rounded] = {}
    points: list[Point] = []
    chosen: dict[str, Numbers | None] = {}
    for node in _roundings(program.graph):
        source, numbers = _read(node, 0), _numbers(node, tensors)
        if source.op == "get_attr":
            name = str(source.target)
            rounded[name] = Rounded(numbers.integers(tensors[name].detach()), numbers)
        else:
            group = str(_read(_read(node, 1), 0).target).removesuffix("_scale")
            readers = () if len(source.users) == 1 else tuple(user.name for user in node.users)
            points.append(Point(source.name, readers, group, False))
            chosen[group] = numbers

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.target is FAKE:
                node.replace_all_uses_with(node.args[0])

    plain = rebuild(program, edit)
    products = tuple(p for p in contractions(plain) if p.weight in rounded)
    return converted(plain, points, chosen, rounded, products)


def _numbers(node: Node, tensors: Mapping[str, torch.Tensor]) -> Numbers:
    logarithm, zero = tensors[str(_read(_read(node, 1), 0).target)], tensors[str(_read(node, 2).target)]
    low, high = node.args[3:5]
    assert isinstance(low, int)
    assert isinstance(high, int)
    return Numbers(logarithm.detach().exp(), zero, low, high)
