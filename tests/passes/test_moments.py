"""Columns that layers multiply, of every kind of layer, and their second moments while weights before change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphc.passes.affine import affine
from graphc.passes.calibration import Calibration
from graphc.passes.contractions import contractions
from graphc.passes.matrices import columns, matrix, parameter
from graphc.passes.moments import visit_in_turn
from graphc.passes.quantize.rounding import by_inputs
from torch import nn
from transformers.pytorch_utils import Conv1D

import graphc
from graphc.errors import GraphError
from graphc.ir.watch import walk

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (3, 5, 6)),
    "turned": (lambda: Conv1D(4, 6), (3, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, stride=2, padding=1), (2, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 4, (3, 2), stride=2, padding=1, dilation=2), (3, 6, 9, 8)),
    "same": (lambda: nn.Conv2d(6, 4, 3, padding="same"), (3, 6, 9, 8)),
    "groups": (lambda: nn.Conv2d(6, 4, 3, groups=2), (3, 6, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, bias=False), (3, 6, 9, 8)),
    "one image": (lambda: nn.Conv2d(6, 4, 3), (6, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(6, 4, 2), (2, 6, 3, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), (3, 6, 5, 4)),
    "transposed groups": (lambda: nn.ConvTranspose1d(6, 4, 3, groups=2), (3, 6, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_its_matrix_times_its_columns(kind: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[kind]
    x = torch.randn(shape)
    program = graphc.capture(build().eval(), (x,), dynamic={})
    product = next(contractions(program))
    layer = affine(program, product.node)
    assert layer is not None
    weight = program.tensors()[layer.weight].detach()
    rows = matrix(layer, weight)
    assert torch.equal(parameter(layer, rows, weight.shape), weight)
    found = torch.cat([rows @ part for part in columns(layer, x, [weight.shape[i] for i in layer.order])], -1)
    with torch.no_grad():
        whole = program(x).movedim(-1 if layer.form.groups is None else layer.dim, 0).flatten(1)
        bias = 0 if layer.bias is None else program.tensors()[str(layer.bias.target)][:, None]
    torch.testing.assert_close(found.flatten(0, 1) + bias, whole, atol=1e-5, rtol=1e-4)


class Net(nn.Module):
    """Two layers that read one value, one after them, and one weight that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 6)
        self.twice, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x)) + self.second(x)
        found: torch.Tensor = self.last(torch.tanh(self.twice(torch.tanh(self.twice(x)))))
        return found


@pytest.fixture(scope="module")
def net() -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(Net().eval(), (torch.randn(3, 4),), dynamic={"x": {0: "batch"}})


def data() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(size, 4) for size in (5, 2, 7)]


def seen(program: graphc.Program, tensors: dict[str, torch.Tensor], weight: str) -> torch.Tensor:
    """Second moments of all that a weight's layers read, in a run with these tensors."""
    found = torch.zeros(())
    readers = [p for p in contractions(program) if p.weight == weight]
    for batch in data():
        for node in walk(program, (batch,), tensors=tensors):
            found = found + sum(node.value.t() @ node.value for p in readers if p.data is node.node)
    return found


def visited(
    program: graphc.Program, calibration: Calibration, change: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Moments of every weight, by name in the order of the visits; each weight is changed when it is visited."""
    found: dict[str, torch.Tensor] = {}
    products = list(contractions(program))
    uses = by_inputs(program, products, {p.weight for p in products})
    held = program.tensors()

    def visit(name: str, moments: torch.Tensor) -> torch.Tensor:
        found[name] = moments
        return change(held[name].detach())

    visit_in_turn(program, uses, calibration, visit)
    return found


def test_layers_see_what_those_before_have_become(net: graphc.Program) -> None:
    before = {name: value.detach().clone() for name, value in net.tensors().items()}
    found = visited(net, Calibration(data), lambda weight: weight * 0.5)
    assert list(found) == ["first.weight", "second.weight", "twice.weight", "last.weight"]
    assert torch.equal(found["first.weight"], found["second.weight"])
    halves = {name: before[name] * 0.5 for name in ("first.weight", "second.weight")}
    with torch.no_grad():
        torch.testing.assert_close(found["twice.weight"][0].float(), seen(net, halves, "twice.weight"))
        torch.testing.assert_close(found["first.weight"][0].float(), seen(net, halves, "first.weight"))
        assert not torch.allclose(found["twice.weight"][0].float(), seen(net, before, "twice.weight"), rtol=0.1)
    assert all(torch.equal(before[name], value) for name, value in net.tensors().items())


def test_each_part_of_the_graph_runs_once_for_each_batch(net: graphc.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = 0
    linear = torch.ops.aten.tanh.default

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal ran
        for step in walk(*args, **kwargs):
            ran += step.node.target is linear
            yield step

    monkeypatch.setattr("graphc.passes.moments.walk", counted)
    visited(net, Calibration(data), lambda weight: weight)
    assert ran == 3 * len(data())


def test_inputs_that_are_no_numbers_are_named(net: graphc.Program) -> None:
    bad = [torch.full((3, 4), torch.nan)]
    with pytest.raises(GraphError, match=r"first\.weight cannot be rounded by its inputs(?s:.*)x, has NaN"):
        visited(net, Calibration(lambda: bad), lambda weight: weight)
