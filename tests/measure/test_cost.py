"""Cost: equal to torch's own count, before a cut and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from graphc.passes.quantize.fold import fold_batch_norms
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import graphc
from graphc.coupling.cost import budget
from graphc.coupling.flow import analyze
from graphc.errors import GraphError
from graphc.ir.edit import redirect
from graphc.measure import Form, changes, cost, layers
from tests import models
from tests.models import image, quantised, seeded, tokens, vectors


def counted(program: graphc.Program, **dims: int) -> int:
    """MACs by torch's own counter."""
    args, kwargs = program.contract.resized(**dims)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        program(*args, **kwargs)
    return counter.get_total_flops() // 2


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,iok->bok", x, self.weight)


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]] = {
    "residual": lambda: (seeded(models.Residual), (image(),), {}),
    "grouped, depthwise, transposed": lambda: (seeded(models.Grouped), (image(),), {}),
    "concat": lambda: (seeded(models.Concat), (image(),), {}),
    "transformer": lambda: (seeded(models.Transformer), (tokens(),), {}),
    "einsum": lambda: (seeded(Einsum), (vectors(),), {}),
    "bert sdpa": lambda: (models.tiny_bert("sdpa")[0], (), models.tiny_bert()[1]),
    "bert eager": lambda: (models.tiny_bert("eager")[0], (), models.tiny_bert()[1]),
    "gpt2": lambda: (models.tiny_gpt2()[0], (), models.tiny_gpt2()[1]),
    "resnet18": lambda: (torchvision.models.resnet18().eval(), (torch.randn(4, 3, 64, 64),), {}),
}


@pytest.mark.parametrize("net", NETS)
def test_macs_params_and_bytes_are_exact(net: str) -> None:
    model, args, kwargs = NETS[net]()
    program = graphc.capture(model, args, kwargs)
    found = cost(program)
    assert found.macs == counted(program, batch=1)
    assert cost(program, batch=5).macs == counted(program, batch=5)
    assert found.params == sum(p.numel() for p in program.parameters())
    assert found.bytes == sum(t.numel() * t.element_size() for t in program.tensors().values())


@pytest.mark.parametrize("net", ["residual", "transformer", "gpt2", "resnet18"])
def test_after_a_cut_the_cost_is_what_the_polynomial_said(net: str) -> None:
    model, args, kwargs = NETS[net]()
    program = graphc.capture(model, args, kwargs)
    analysis = analyze(program)
    free = [axis for axis in analysis.axes if axis.pinned is None]
    sizes = {axis: max(1, axis.size // 2) for axis in free}
    predicted = budget(analysis, sizes, batch=1)
    sliced = graphc.slice(program, {axis.name: range(size) for axis, size in sizes.items()})
    found = cost(sliced)
    assert (found.params, found.macs, found.bytes) == (predicted.params, predicted.macs, predicted.bytes)
    assert found.macs == counted(sliced, batch=1)
    assert found.macs < 0.6 * cost(program).macs


def test_a_program_without_a_batch_dim_and_unknown_dims() -> None:
    program = graphc.capture(seeded(models.Residual), (image(),), dynamic={})
    assert cost(program).macs == counted(program)
    with pytest.raises(GraphError, match="no dynamic dim"):
        cost(program, batch=1)
    with pytest.raises(GraphError, match="'seq'"):
        cost(models.transformer(), sek=5)


def test_a_tied_parameter_counts_once() -> None:
    tied, untied = models.transformer(tied=True), models.transformer(tied=False)
    assert cost(untied).params - cost(tied).params == 37 * 24
    assert cost(untied).macs == cost(tied).macs


def test_layers_and_changes_are_told_by_module() -> None:
    program = models.residual()
    assert layers(program)["conv1"] == {"weight": Form((24, 12, 3, 3)), "bias": Form((24,))}
    sliced = graphc.slice(program, {"conv1.out": range(8)})
    assert [str(change) for change in changes(program, sliced)] == [
        "conv1: weight 24x12x3x3 => 8x12x3x3, bias 24 => 8",
        "norm1: weight 24 => 8, bias 24 => 8, running_mean 24 => 8, running_var 24 => 8",
        "conv2: weight 12x24x1x1 => 12x8x1x1",
    ]
    assert changes(program, program) == []


def test_removed_and_new_modules_are_told() -> None:
    program = models.residual()
    names = [node.name for node in program.graph.nodes if node.target is torch.ops.aten.relu.default]
    first, last = names[0], names[-1]
    shorter = redirect(program, {last: first})
    assert [str(c) for c in changes(program, shorter)] == ["conv1: removed", "norm1: removed", "conv2: removed"]
    assert str(changes(shorter, program)[0]) == "conv1: new, weight 24x12x3x3, bias 24"


@pytest.mark.parametrize(("scheme", "group"), [("W8A8", None), ("W8A8-dynamic", None), ("W8A16", 16), ("W4A16", 16)])
def test_numbers_of_any_type_are_parameters_but_not_what_they_stand_for(scheme: str, group: int | None) -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 80, bias=False))
    program = graphc.capture(model, (torch.randn(4, 64),))
    after = quantised(program, scheme, group_size=group)
    before = fold_batch_norms(program)
    assert (cost(after).params, cost(after).macs) == (cost(before).params, cost(before).macs)
    assert cost(after).bytes == sum(t.numel() * t.element_size() for t in after.tensors().values())
    assert cost(after).bytes < cost(before).bytes * (0.25 if scheme == "W4A16" else 0.37)


def test_changes_tell_types() -> None:
    before = models.residual()
    assert [str(change) for change in changes(before, quantised(before, "W8A8"))][:2] == [
        "stem: weight float32 => int8, bias new => 12 int32",
        "norm: removed",
    ]
