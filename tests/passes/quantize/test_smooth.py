from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from graphc.passes.calibration import Calibration
from graphc.passes.quantize.multiply import Multiplier, with_multipliers
from graphc.passes.quantize.seams import layer_inputs
from graphc.passes.quantize.smooth import channel_maxima, smooth
from torch import Tensor, nn
from torch.fx import Interpreter, Node

import graphc
from graphc.errors import GraphError, RecipeError
from tests import models


def vit() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=44,
        image_size=16,
        patch_size=8,
        num_labels=5,
    )
    return models.seeded(lambda: ViTForImageClassification(config)), {"pixel_values": torch.randn(3, 3, 16, 16)}


def t5() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=44, num_layers=2, num_heads=4)
    return models.seeded(lambda: T5EncoderModel(config)), {"input_ids": models.tokens(3, 11, 61)}


BUILDS: dict[str, tuple[Callable[[], tuple[nn.Module, dict[str, Tensor]]], int]] = {
    "bert": (models.tiny_bert, 7),
    "vit": (vit, 2),
    "gpt2": (models.tiny_gpt2, 2),
    "llama": (models.tiny_llama, 0),
    "t5": (t5, 0),
}
"""Models, and how many of the values that linear layers read need an op of their own."""


def outlying(name: str) -> graphc.Program:
    """The model with a few large channels in every value that a norm within gives, as trained ones have."""
    pytest.importorskip("transformers")
    model, inputs = BUILDS[name][0]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
            elif ("norm" in key.lower() or ".ln_" in key) and not ("ln_f" in key or "final_layer_norm" in key):
                parameter[:3] *= 30
    return graphc.capture(model, (), inputs)


def data(program: graphc.Program) -> Calibration:
    return Calibration(lambda: [program.example()[1]])


def linear_inputs(program: graphc.Program) -> list[str]:
    return [node.name for node, dim in layer_inputs(program).items() if dim == node.meta["val"].dim() - 1]


def run(program: graphc.Program) -> Tensor:
    with torch.no_grad():
        found = program(**program.example()[1])
    return next(iter(found.values())) if isinstance(found, Mapping) else found


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


class Rounded(Interpreter):
    """Runs a program with the data of every linear layer in 8 bits, one scale a tensor."""

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.rounded:
            scale = value.abs().max() / 127
            value = torch.round(value / scale) * scale
        return value


def rounding_error(program: graphc.Program) -> float:
    """How far the outputs are from those without rounding, as a share of their energy."""
    expected = run(program)
    interpreter = Rounded(program.module)
    interpreter.rounded = {node for node in layer_inputs(program) if node.name in linear_inputs(program)}
    with torch.no_grad():
        flat = list(program.example()[1].values())
        found = interpreter.run(*flat)
    found = torch.utils._pytree.tree_leaves(found)[0]
    return float((found - expected).square().sum() / expected.square().sum())


@pytest.mark.parametrize("name", BUILDS)
def test_outliers_move_into_weights(name: str) -> None:
    program = outlying(name)
    maxima = channel_maxima(program, data(program), linear_inputs(program))
    done = smooth(program, maxima, 0.5)
    assert distance(run(done), run(program)) <= 1e-4
    added = len(list(done.graph.nodes)) - len(list(program.graph.nodes))
    assert added == 2 * BUILDS[name][1]
    assert rounding_error(done) < rounding_error(program) / 2


def test_the_formula() -> None:
    torch.manual_seed(0)
    norm, first, second = nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(6, 4)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.first, self.second = norm, first, second

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return torch.cat([self.first(y), self.second(y)], 1)

    program = graphc.capture(Net(), (torch.randn(7, 6),))
    largest = norm(program.example()[0][0]).detach().abs().amax(0)
    maxima = channel_maxima(program, Calibration(lambda: [program.example()[0][0]]), ["layer_norm"])
    torch.testing.assert_close(maxima["layer_norm"], largest)
    weights = torch.cat([first.weight, second.weight]).detach().abs().amax(0)
    factors = largest**0.8 / weights**0.2
    tensors = smooth(program, maxima, 0.8).tensors()
    torch.testing.assert_close(tensors["norm.weight"].detach(), norm.weight.detach() / factors)
    torch.testing.assert_close(tensors["second.weight"].detach(), second.weight.detach() * factors)


def test_maxima_are_taken_over_all_batches() -> None:
    program = graphc.capture(nn.Linear(4, 3), (torch.randn(2, 4),))
    batches = [torch.tensor([[1.0, -5, 0, 2]]), torch.tensor([[-3.0, 4, 0, 1], [2, 2, 0, 2]])]
    (value,) = (node.name for node in layer_inputs(program))
    found = channel_maxima(program, Calibration(lambda: batches), [value])
    assert found[value].tolist() == [3, 5, 0, 2]


def test_without_ops_of_their_own_values_with_no_seam_stay() -> None:
    program = outlying("bert")
    maxima = channel_maxima(program, data(program), linear_inputs(program))
    done = smooth(program, maxima, 0.5, multiply=False)
    assert len(list(done.graph.nodes)) == len(list(program.graph.nodes))
    assert torch.equal(
        *(p.tensors()["bert.encoder.layer.0.intermediate.dense.weight"] for p in (program, done)),
    )


def test_values_that_are_not_named_stay() -> None:
    program = outlying("llama")
    name = linear_inputs(program)[0]
    done = smooth(program, channel_maxima(program, data(program), [name]), 0.5)
    changed = [n for n, value in program.tensors().items() if not torch.equal(value, done.tensors()[n])]
    layer = "model.layers.0."
    assert set(changed) == {
        f"{layer}input_layernorm.weight",
        *(f"{layer}self_attn.{part}_proj.weight" for part in "qkv"),
    }


def test_convolutions_take_factors_in_an_op_of_their_own() -> None:
    program = models.residual()
    done = with_multipliers(program, [Multiplier("x", ("conv2d",), torch.tensor([0.5, 2.0, 4.0]))], note="smoothed")
    x = program.example()[0][0]
    torch.testing.assert_close(done(x), program(x))
    assert done.tensors()["x_factors"].flatten().tolist() == [2.0, 0.5, 0.25]
    assert done.history == ("smoothed",)


def test_a_tied_weight_is_not_multiplied() -> None:
    program = models.transformer()
    with pytest.raises(GraphError, match="its weight has other readers"):
        with_multipliers(program, [Multiplier("layer_norm_4", ("linear_8",), torch.ones(24))])


@pytest.mark.parametrize(
    ("maxima", "strength", "why"),
    [
        ({"relu_default": torch.ones(12)}, 1.5, "the strength is 1.5"),
        ({"relu": torch.ones(12)}, 0.5, "no layer reads it"),
        ({"relu_default": torch.ones(11)}, 0.5, "must be 12"),
        ({"relu_default": torch.full((12,), torch.nan)}, 0.5, "finite"),
    ],
)
def test_what_does_not_fit_is_refused(maxima: dict[str, Tensor], strength: float, why: str) -> None:
    with pytest.raises(GraphError, match=why):
        smooth(models.residual(), maxima, strength)


def test_values_that_are_not_finite_and_missing_data_are_refused() -> None:
    program = graphc.capture(nn.Linear(4, 3), (torch.randn(2, 4),))
    (value,) = (node.name for node in layer_inputs(program))
    bad = torch.ones(2, 4)
    bad[1, 2] = torch.inf
    with pytest.raises(GraphError, match="channel 2 has inf"):
        channel_maxima(program, Calibration(lambda: [bad]), [value])
    with pytest.raises(GraphError, match="no convolution or linear layer reads it"):
        channel_maxima(program, Calibration(lambda: [bad]), ["linear"])
    with pytest.raises(RecipeError, match="calibration data"):
        channel_maxima(program, Calibration(), [value])
