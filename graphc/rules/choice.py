"""Numbers of units that were chosen by value keep their meaning through copies, views and picks.

``topk`` over experts gives numbers of experts. Whatever they index is the same axis, so experts can
be removed: among those left others are chosen. ``Operation.chosen`` begins such a chain, a rule that
asks ``Operation.choice`` takes care of the numbers itself, the ops named here hand them on, and any
other reader pins the axis.
"""

from __future__ import annotations

from graphc.axes.unify import unify
from graphc.rules.operation import Operation

KEEPING = """
_to_copy.default _unsafe_view.default clone.default contiguous.default expand.default flatten.using_ints gather.default
index.Tensor index_select.default permute.default ravel.default repeat.default repeat_interleave.self_int
reshape.default select.int slice.Tensor sort.default sort.stable squeeze.default squeeze.dim squeeze.dims t.default
to.device to.dtype to.dtype_layout transpose.int unflatten.int unsqueeze.default view.default
""".split()
"""Ops whose first result has no other values than their first argument."""

JOINING = "cat.default concat.default concatenate.default stack.default".split()
"""Ops that join a list of tensors."""


def hand_on(op: Operation) -> None:
    """What becomes of the numbers that a node reads, once its rule has been applied."""
    if not op.numbered:
        op.asked.clear()
        return
    name = str(op.node.target).removeprefix("aten.")
    if name in KEEPING:
        op.chosen(op.choice(op.arg(0)))
    elif name in JOINING:
        _join(op)
    for node in op.node.all_input_nodes:
        axis = op.numbered.get((node, 0))
        if axis is not None and node not in op.asked:
            axis.pin(f"numbers of its units are read at {op.where()}")
    op.asked.clear()


def _join(op: Operation) -> None:
    """Numbers of units if all that is joined is that, of one axis."""
    units = [op.choice(node) for node in op.arg(0)]
    if None in units:
        op.asked.clear()
        return
    for axis in units[1:]:
        unify(units[0], axis, op.where)
    op.chosen(units[0])
