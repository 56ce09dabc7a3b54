from __future__ import annotations

from collections import Counter

import pytest
import torch
from graphc.passes.quantize.bounds import bounds_as_tensors
from graphc.passes.quantize.equalize import equalize
from graphc.passes.quantize.fold import fold_batch_norms
from graphc.passes.quantize.seams import Seams
from torch import Tensor, nn

import graphc
from graphc.ir.edit import rebuild
from tests import models

aten = torch.ops.aten


def mobilenet() -> graphc.Program:
    """A MobileNetV2 of three blocks, without norms."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    blocks = [[1, 8, 1, 1], [4, 12, 2, 2]]
    model = torchvision.models.MobileNetV2(num_classes=7, inverted_residual_setting=blocks)
    return fold_batch_norms(graphc.capture(models.randomise(model).eval(), (torch.randn(2, 3, 24, 24),)))


def skewed(program: graphc.Program) -> graphc.Program:
    """The same function with channels of very different ranges."""
    program = bounds_as_tensors(program)
    generator, tensors = torch.Generator().manual_seed(1), program.tensors()
    for seam in Seams(program).all():
        tensors |= seam.apply(tensors, seam.shared(torch.exp(2 * torch.randn(seam.size, generator=generator))))
    return rebuild(program, tensors=tensors)


def run(program: graphc.Program) -> Tensor:
    args, kwargs = program.example()
    with torch.no_grad():
        found = program(*args, **kwargs)
    return found if isinstance(found, Tensor) else next(iter(found.values()))


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def rounded(program: graphc.Program) -> graphc.Program:
    """All weights in 8 bits, one scale a tensor."""
    new = {}
    for name, value in program.tensors().items():
        if value.dim() > 1 and isinstance(value, nn.Parameter):
            scale = value.detach().abs().max() / 127
            new[name] = torch.round(value.detach() / scale) * scale
    return rebuild(program, tensors=new)


def decibels(found: Tensor, expected: Tensor) -> float:
    return float(10 * torch.log10(expected.square().sum() / (found - expected).square().sum()))


def test_two_layers_meet_at_the_geometric_mean() -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(3, 5), nn.Linear(5, 4)
    program = graphc.capture(nn.Sequential(first, nn.ReLU(), last), (torch.randn(2, 3),))
    tensors = equalize(program).tensors()
    made, taken = first.weight.detach().abs().amax(1), last.weight.detach().abs().amax(0)
    factors = (made / taken).sqrt()
    torch.testing.assert_close(tensors["0.weight"], first.weight.detach() / factors[:, None], check_dtype=False)
    torch.testing.assert_close(tensors["0.bias"].detach(), first.bias.detach() / factors)
    torch.testing.assert_close(tensors["2.weight"].detach(), last.weight.detach() * factors)
    assert torch.equal(tensors["2.bias"], last.bias)


def test_ranges_are_equal_everywhere_at_once() -> None:
    program = equalize(mobilenet(), clamps=True)
    tensors = program.tensors()
    seams = Seams(bounds_as_tensors(program)).all()
    assert len(seams) == 9
    for seam in seams:
        made, taken = (seam.weight_maxima(ends, tensors) for ends in (seam.producers, seam.consumers))
        assert made is not None
        assert taken is not None
        torch.testing.assert_close(made, taken, rtol=0.05, atol=0)


@pytest.mark.parametrize("clamps", [False, True])
def test_the_function_stays(clamps: bool) -> None:
    program = mobilenet()
    done = equalize(program, clamps)
    assert distance(run(done), run(program)) <= 1e-4
    changed = [name for name, value in program.tensors().items() if not torch.equal(value, done.tensors()[name])]
    assert len(changed) > (20 if clamps else 3)


def test_the_function_of_a_language_model_stays() -> None:
    pytest.importorskip("transformers")
    model, inputs = models.tiny_llama()
    program = graphc.capture(model, (), inputs)
    done = equalize(program)
    assert distance(run(done), run(program)) <= 1e-4
    assert not torch.equal(*(p.tensors()["model.layers.0.mlp.up_proj.weight"] for p in (program, done)))


def test_rounding_to_one_scale_a_tensor_costs_less() -> None:
    program = mobilenet()
    expected, spread = run(program), skewed(program)
    before = decibels(run(rounded(spread)), expected)
    after = decibels(run(rounded(equalize(spread, clamps=True))), expected)
    assert before < 15
    assert after > before + 15


def test_clamps_are_gone_through_on_request_and_are_else_what_they_were() -> None:
    program = mobilenet()

    def ops(program: graphc.Program) -> Counter[str]:
        return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")

    assert ops(equalize(program)) == ops(program)
    through = ops(equalize(program, clamps=True))
    assert through["aten.clamp.Tensor"] == ops(program)["aten.hardtanh.default"] == 7
    assert through["aten.hardtanh.default"] == 0


class Clamped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).clamp(max=1.0)).clamp(-2.0, 0.5).clamp_min(-1.0).sigmoid()


def test_a_clamp_that_no_seam_goes_through_keeps_its_numbers() -> None:
    torch.manual_seed(0)
    program = graphc.capture(Clamped(), (3 * torch.randn(5, 4),))
    done = equalize(program, clamps=True)
    targets = [node.target for node in done.graph.nodes if str(node.target).startswith("aten.clamp")]
    assert targets == [aten.clamp.Tensor, aten.clamp.default, aten.clamp_min.default]
    assert distance(run(done), run(program)) <= 1e-6


def test_units_that_are_zero_stay() -> None:
    program = fold_batch_norms(models.residual())
    weight = program.tensors()["conv1.weight"].detach().clone()
    weight[3] = 0
    program = rebuild(program, tensors={"conv1.weight": nn.Parameter(weight)})
    done = equalize(program)
    assert all(bool(torch.isfinite(value).all()) for value in done.tensors().values())
    assert distance(run(done), run(program)) <= 1e-5
