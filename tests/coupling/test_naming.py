"""Names of axes: golden text, unique, stable."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import graphc
from tests import models
from tests.models import image, seeded

NETS: dict[str, Callable[[], graphc.Program]] = {
    "residual": models.residual,
    "grouped": lambda: graphc.capture(seeded(models.Grouped), (image(),)),
    "bert": lambda: graphc.capture(models.tiny_bert()[0], kwargs=models.tiny_bert()[1]),
}


def listing(program: graphc.Program) -> str:
    """One line an axis: name, size, marks, members."""
    lines = []
    for axis in graphc.find_axes(program):
        marks = [*(["mixed"] if axis.mixed else []), *([f"pinned: {axis.pinned}"] if axis.pinned else [])]
        members = ", ".join(f"{name}.{dim}" for name, dim in axis.members)
        lines.append(f"{axis.name} [{axis.size}] {'; '.join(marks) or 'free'}\n    {members}")
    return "\n".join(lines)


@pytest.mark.parametrize("net", NETS)
def test_axes_of(golden: Callable[[str, str], None], net: str) -> None:
    golden(f"axes_{net}", listing(NETS[net]()))


@pytest.mark.parametrize("net", NETS)
def test_names_are_unique_and_survive_a_cut(net: str) -> None:
    program = NETS[net]()
    names = [axis.name for axis in graphc.find_axes(program)]
    assert len(set(names)) == len(names)
    free = [axis for axis in graphc.find_axes(program) if axis.pinned is None and axis.size > 3]
    sliced = graphc.slice(program, {axis: range(axis.size - 1) for axis in free})
    assert [axis.name for axis in graphc.find_axes(sliced)] == names
