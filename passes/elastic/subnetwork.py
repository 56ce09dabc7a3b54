"""The program of one sub-network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.coupling import slice
from graphc.ir.edit import redirect
from graphc.ir.program import Program

from .kernels import slice_kernels
from .space import Space, Spec


def subnetwork(program: Program, space: Space, spec: Spec, order: Mapping[str, Sequence[int]] | None = None) -> Program:
    """Channels, kernels and blocks removed as a spec says.

    Args:
        program: what the space was found in; stays as it is.
        space: of the program.
        spec: what is left.
        order: of some axes, by name, all units from the most important one; the first ones of each axis stay.

    Raises:
        RecipeError: the spec does not fit the space.
    """
    cut = space.cut(spec)
    given = {axis: list(units) for axis, units in (order or {}).items()}
    kept = {axis: given.get(axis, range(units))[:units] for axis, units in cut.units.items()}
    matrices = {weight: maps for choice in space.kernels for weight, maps in choice.matrices.items()}
    # By the names that the program gives: channels first, since names of axes follow from the graph.
    result = slice(program, {**given, **kept}) if given or kept else program
    result = slice_kernels(result, cut.kernels, matrices) if cut.kernels else result
    return redirect(result, cut.skipped) if cut.skipped else result
