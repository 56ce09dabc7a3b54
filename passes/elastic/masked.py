"""Sub-networks by masks: the largest network computes what a smaller one does, so that all are trained in one graph.

A parameter that some sub-network has less of stands in the graph as ``masked_fill(parameter, mask, 0)``: the mask, a
bool buffer, is true at channels and at outer rings of kernels that are left out. What leaves a block that can be left
out becomes ``where(gate, exit, entry)``. So a program with masks computes what ``subnetwork`` does, in training too,
but for the running statistics of batch norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from graphc.axes.axis import Axis, leaves, positions
from graphc.coupling import analyze
from graphc.coupling.slicing import resolve
from graphc.ir.edit import find, rebuild
from graphc.ir.program import Program

from .kernels import find_kernels, middle
from .space import Space, Spec

MASKED, CHOSEN = torch.ops.aten.masked_fill.Scalar, torch.ops.aten.where.self
MASK, GATE = "_left_out", "_stays"
"""How the names of the buffers end that belong to a parameter, and to the value that leaves a block."""

WHERE: Mapping[Any, tuple[str, int, int]] = {MASKED: (MASK, 1, 0), CHOSEN: (GATE, 0, 1)}
"""Of each op the end of its buffer's name, where the buffer stands, and where what it lets through."""


class Masks:
    """Turns a program that ``masked`` made into each of its sub-networks.

    Args:
        program: as ``masked`` left it; its masks and gates are written into.
        space: the same.
    """

    def __init__(self, program: Program, space: Space) -> None:
        tensors = program.tensors()
        plain = unmasked(program)
        self.space = space
        self.analysis = analyze(plain)
        self.kernels = find_kernels(plain, matrices=False)
        self.masks = {n.removesuffix(MASK): value for n, value in tensors.items() if n.endswith(MASK)}
        self.gates = {n.removesuffix(GATE): value for n, value in tensors.items() if n.endswith(GATE)}

    def __call__(self, spec: Spec) -> None:
        """Leave out what a spec leaves out.

        Raises:
            RecipeError: it does not fit the space.
        """
        cut = self.space.cut(spec)
        chosen = resolve(self.analysis, {axis: range(units) for axis, units in cut.units.items()})
        gone = {axis: _gone(axis, chosen) for name in self.masks for axis in self.analysis.tensors[name] if axis}
        for name, mask in self.masks.items():
            mask.zero_()
            for dim, axis in enumerate(self.analysis.tensors[name]):
                units = gone[axis] if axis is not None else None
                if units is not None:
                    mask |= units.to(mask.device).view([-1 if i == dim else 1 for i in range(mask.dim())])
            if name in cut.kernels:
                ring = torch.ones_like(mask)
                middle(ring, self.kernels[name].cut(cut.kernels[name])).zero_()
                mask |= ring
        for name, gate in self.gates.items():
            gate.fill_(name not in cut.skipped)


def _gone(axis: Axis, chosen: Mapping[Axis, Sequence[int]]) -> Tensor | None:
    """True at those places of a dim that are left out; None if none is."""
    if not any(leaf in chosen for leaf in leaves(axis)):
        return None
    gone = torch.ones(axis.root().size, dtype=torch.bool)
    gone[positions(axis, chosen)] = False
    return gone


def masked(program: Program, space: Space) -> Program:
    """The program with masks and gates that let everything through.

    Args:
        program: stays as it is.
        space: of the program; all that it can leave out gets a mask or a gate.
    """
    tensors = program.tensors()
    masks = {name: f"{name}{MASK}" for name in _elastic(program, space)}
    steps = dict(step for choice in space.depths for step in choice.layers.values())
    new = {mask: torch.zeros_like(tensors[name], dtype=torch.bool) for name, mask in masks.items()}
    device = next(iter(tensors.values())).device
    new |= {f"{leaving}{GATE}": torch.ones((), dtype=torch.bool, device=device) for leaving in steps}

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.op == "get_attr" and str(node.target) in masks:
                _guard(graph, node, masks[str(node.target)], MASKED, 0)
        gated: dict[str, Node] = {}
        for leaving, entering in steps.items():
            other = gated[entering] if entering in gated else find(graph, entering)
            gated[leaving] = _guard(graph, find(graph, leaving), f"{leaving}{GATE}", CHOSEN, other)

    return rebuild(program, edit, tensors=new)


def _elastic(program: Program, space: Space) -> list[str]:
    """The parameters that some sub-network has less of."""
    inside = Space(space.kernels, space.widths)
    cut = inside.cut(inside.smallest)
    analysis = analyze(program)
    chosen = resolve(analysis, {axis: range(units) for axis, units in cut.units.items()})
    smaller = {
        name
        for name, layout in analysis.tensors.items()
        if any(leaf in chosen for axis in layout if axis is not None for leaf in leaves(axis))
    }
    tensors = program.tensors()
    return [n for n, v in tensors.items() if isinstance(v, torch.nn.Parameter) and (n in smaller or n in cut.kernels)]


def _guard(graph: Graph, node: Node, buffer: str, op: Any, other: Node | float) -> Node:
    """All that read a node read instead what a buffer lets through of it."""
    users = list(node.users)
    with graph.inserting_after(node):
        state = graph.create_node("get_attr", buffer, name=buffer.replace(".", "_"))
    with graph.inserting_after(state):
        guarded = graph.call_function(op, (node, state, other) if op is MASKED else (state, node, other))
    guarded.meta = {key: value for key, value in node.meta.items() if key in ("nn_module_stack", "stack_trace")}
    for user in users:
        user.replace_input_with(node, guarded)
    return guarded


def unmasked(program: Program) -> Program:
    """The program without the masks and gates that ``masked`` put there; its tensors are as they are."""

    def edit(graph: Graph) -> None:
        for node in list(graph.nodes):
            end, state, value = WHERE.get(node.target, ("", 0, 0))
            buffer, through = (node.args[state], node.args[value]) if end else (None, None)
            if isinstance(buffer, Node) and isinstance(through, Node) and str(buffer.target).endswith(end):
                node.replace_all_uses_with(through)

    return rebuild(program, edit)
