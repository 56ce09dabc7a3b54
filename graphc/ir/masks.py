"""Masks: weights that are multiplied by zeros and ones, and their end.

A masked weight stands in the graph as ``mul(weight, mask)``, the mask a buffer beside the weight.
So a mask is cut wherever its weight is, gradients of masked weights are zero, and a model that was
masked by ``torch.nn.utils.prune`` is captured in the same form. Before a program is written or
timed, masks become permanent: the product takes the place of both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from graphc.ir.edit import rebuild
from graphc.ir.graph import attribute
from graphc.ir.program import Program

MUL = torch.ops.aten.mul.Tensor
ORIGINAL, MASK = "_orig", "_mask"
"""How torch.nn.utils.prune ends the names of a weight and of its mask."""


@dataclass(frozen=True)
class Mask:
    """A masked weight: the names of the product's node, of the parameter, and of the buffer."""

    node: str
    weight: str
    mask: str


def find_masks(program: Program) -> list[Mask]:
    """Every parameter that the program multiplies by a buffer of its shape of zeros and ones, and uses nowhere else."""
    found: list[Mask] = []
    for node in program.graph.nodes:
        if node.target is not MUL or not all(isinstance(a, Node) and a.op == "get_attr" for a in node.args):
            continue
        weight, mask = (attribute(program.module, str(a.target)) for a in node.args)
        names = [str(a.target) for a in node.args]
        if isinstance(mask, torch.nn.Parameter):
            weight, mask, names = mask, weight, names[::-1]
        masked = isinstance(weight, torch.nn.Parameter) and not isinstance(mask, torch.nn.Parameter)
        if masked and weight.shape == mask.shape and _binary(mask) and all(len(a.users) == 1 for a in node.args):
            found.append(Mask(node.name, *names))
    return found


def _binary(mask: torch.Tensor) -> bool:
    return mask.dtype == torch.bool or bool(((mask == 0) | (mask == 1)).all())


def put_masks(program: Program, masks: dict[str, torch.Tensor], note: str | None = None) -> Program:
    """Mask parameters; what is masked is also set to zero, so that weights and masks say the same.

    A mask has the dtype of its weight, as those of torch.nn.utils.prune do: ints and bools count positions.

    Args:
        program: stays as it is.
        masks: for each parameter a bool tensor of its shape, False where it is to be zero. A mask
            that the parameter has already gives way to it.
        note: what to add to the history.
    """
    known = {mask.weight: mask for mask in find_masks(program)}
    tensors = program.tensors()
    new: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    for name, keep in masks.items():
        old = tensors[name]
        new[name] = torch.nn.Parameter(old.detach() * keep, old.requires_grad)
        names[name] = known[name].mask if name in known else f"{name.removesuffix(ORIGINAL)}{MASK}"
        new[names[name]] = keep.to(old.dtype)

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            name = str(node.target)
            if node.op == "get_attr" and name in masks and name not in known:
                _multiply(graph, node, names[name])

    return rebuild(program, edit, tensors=new, note=note)


def _multiply(graph: Graph, weight: Node, name: str) -> None:
    users = list(weight.users)
    with graph.inserting_after(weight):
        mask = graph.create_node("get_attr", name, name=name.replace(".", "_"))
    with graph.inserting_after(mask):
        product = graph.call_function(MUL, (weight, mask))
    product.meta = {key: value for key, value in weight.meta.items() if key in ("nn_module_stack", "stack_trace")}
    for user in users:
        user.replace_input_with(weight, product)


def make_permanent(program: Program, keep: Collection[str] = ()) -> Program:
    """The same program without masks: each masked weight is a parameter with zeros in it.

    A parameter that torch.nn.utils.prune called ``weight_orig`` is ``weight`` again.

    Args:
        program: stays as it is.
        keep: masks (names of buffers) that stay.
    """
    masks = [mask for mask in find_masks(program) if mask.mask not in keep]
    if not masks:
        return program
    tensors = program.tensors()
    new: dict[str, torch.Tensor] = {}
    final: dict[str, str] = {}
    for mask in masks:
        plain = mask.weight.removesuffix(ORIGINAL)
        final[mask.node] = mask.weight if plain in tensors else plain
        weight = tensors[mask.weight]
        new[final[mask.node]] = torch.nn.Parameter(weight.detach() * tensors[mask.mask], weight.requires_grad)

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.name in final:
                weight = next(a for a in node.all_input_nodes if str(a.target) in {m.weight for m in masks})
                node.replace_all_uses_with(weight)
                weight.target = final[node.name]

    return rebuild(program, edit, tensors=new)
