from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

import graphc
from graphc.errors import VerifyError
from graphc.ir import shapes
from graphc.ir.edit import rebuild
from graphc.ir.program import Program
from tests.models import Residual


def sizes(program: Program) -> dict[str, list[str]]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    return {name: [str(v.dtype), *map(str, v.shape)] for name, v in values.items() if isinstance(v, FakeTensor)}


class Repeated(torch.nn.Module):
    """Five equal layers, then one that is different."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(5))
        self.last = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.last(x)


def test_equal_layers_are_propagated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    program = graphc.capture(Repeated(), (torch.randn(3, 6),))
    run, calls = shapes.Shapes.compute, []
    monkeypatch.setattr(shapes.Shapes, "compute", lambda self, node: (calls.append(node.name), run(self, node))[1])
    shapes.refresh(program.module)
    assert calls == ["linear", "relu", "linear_5"]
    assert program.graph.output_node().args[0][0].meta["val"].shape[1] == 4


def test_shapes_are_those_of_torch_export() -> None:
    program = graphc.capture(Residual(), (torch.randn(3, 3, 16, 16),))
    assert sizes(rebuild(program)) == sizes(program)


class Literals(torch.nn.Module):
    """Literals that Python holds for equal give values of different kinds."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x + 1, x + 1.0, x.sum(1, keepdim=True), x.sum(1, keepdim=False)


def test_equal_literals_of_other_types_are_told_apart() -> None:
    program = rebuild(graphc.capture(Literals(), (torch.ones(3, 5, dtype=torch.int64),)))
    found = [node.meta["val"] for node in program.graph.output_node().args[0]]
    assert [value.dtype for value in found[:2]] == [torch.int64, torch.float32]
    assert [value.dim() for value in found[2:]] == [2, 1]


class Chosen(torch.nn.Module):
    """Two sizes that depend on data: equal ops on values of one kind, other sizes."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x > 0).nonzero(), (x > 1).nonzero()


@pytest.mark.parametrize("forgotten", [False, True])
def test_sizes_that_depend_on_data_are_not_shared(forgotten: bool) -> None:
    program = graphc.capture(Chosen(), (torch.randn(3, 5),))
    for node in program.graph.nodes if forgotten else ():
        node.meta.pop("unbacked_bindings", None)
    program = rebuild(program)
    first, second = (node.meta["val"].shape[0] for node in program.graph.output_node().args[0])
    assert str(first) != str(second)


def test_a_misfit_names_the_node() -> None:
    program = graphc.capture(Repeated(), (torch.randn(3, 6),))
    with pytest.raises(VerifyError, match=r"linear_2.*self.layers|linear_2.*layer\(x\)"):
        rebuild(program, tensors={"layers.2.weight": torch.nn.Parameter(torch.randn(6, 7))})
