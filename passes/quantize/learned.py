"""Learned numbers: a program whose rounding is trained with its weights, and what became of it."""

from __future__ import annotations

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

LEAST = 1e-9
"""No scale is learned to be less."""


def learnable(quantization: Quantization) -> Program:
    """The program with every rounding in it, differentiable, and every scale a parameter.

    Esser et al. 2020, Learned Step Size Quantization: the gradient passes a rounding as if it were not there,
    within the range, and moves the scale.
    """
    values = simulated(quantization.program, quantization.points, quantization.chosen, {})
    masked = {mask.weight: mask.node for mask in find_masks(values)}
    held = values.tensors()
    tensors: dict[str, torch.Tensor] = {}
    for name in scales(values):
        tensors[name] = torch.nn.Parameter(held[name].clone())

    def edit(graph: Graph) -> None:
        for name, found in quantization.rounded.items():
            if not found.blocks:
                node = next(n for n in graph.nodes if n.op == "get_attr" and n.target == name)
                place = next((n for n in graph.nodes if n.name == masked.get(name)), node)
                _round(graph, place, name, found.numbers, tensors, {*held, *tensors})

    return rebuild(values, edit, tensors=tensors)


def _round(
    graph: Graph, place: Node, name: str, numbers: Numbers, tensors: dict[str, torch.Tensor], taken: set[str]
) -> None:
    users = list(place.users)
    last = place
    made: list[Node] = []
    for ending, value in (
        ("_scale", torch.nn.Parameter(numbers.scale.clone())),
        ("_zero_point", numbers.zero_point.clone()),
    ):
        own = unused_name(f"{name}{ending}", taken)
        tensors[own] = value
        with graph.inserting_after(last):
            last = graph.create_node("get_attr", own, name=own.replace(".", "_"))
        made.append(last)
    with graph.inserting_after(last):
        new = graph.call_function(FAKE, (place, *made, numbers.low, numbers.high))
    for user in users:
        user.replace_input_with(place, new)


def _roundings(program: Program) -> list[Node]:
    return [node for node in program.graph.nodes if node.target is FAKE]


def scales(program: Program) -> list[str]:
    """Names of the scales of all roundings."""
    return list(dict.fromkeys(str(node.args[1].target) for node in _roundings(program)))  # type: ignore[union-attr] # a tensor


def clamp_scales(program: Program) -> None:
    """Keep every scale above zero, in place; between steps of the training."""
    tensors = program.tensors()
    for name in scales(program):
        tensors[name].detach().clamp_(min=LEAST)


def learned(program: Program) -> Program:
    """A program with roundings in it as one of integers, with the scales that it has learned."""
    program = make_permanent(program)
    tensors = program.tensors()
    rounded: dict[str, Rounded] = {}
    points: list[Point] = []
    chosen: dict[str, Numbers | None] = {}
    for node in _roundings(program):
        source, numbers = node.args[0], _numbers(node, tensors)
        assert isinstance(source, Node)
        if source.op == "get_attr":
            name = str(source.target)
            rounded[name] = Rounded(numbers.integers(tensors[name].detach()), numbers)
        else:
            group = str(node.args[1].target).removesuffix("_scale")  # type: ignore[union-attr] # a tensor
            readers = () if len(source.users) == 1 else tuple(user.name for user in node.users)
            points.append(Point(source.name, readers, group, False))
            chosen[group] = numbers

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.target is FAKE:
                node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type] # a tensor

    plain = rebuild(program, edit)
    products = tuple(p for p in contractions(plain) if p.weight in rounded)
    return converted(plain, points, chosen, rounded, products)


def _numbers(node: Node, tensors: dict[str, torch.Tensor]) -> Numbers:
    scale, zero = (tensors[str(a.target)].detach() for a in node.args[1:3])  # type: ignore[union-attr] # tensors
    low, high = node.args[3:5]
    assert isinstance(low, int)
    assert isinstance(high, int)
    return Numbers(scale, zero, low, high)
