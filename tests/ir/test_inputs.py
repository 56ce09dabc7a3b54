"""Binding inputs: constants take their place, and what follows from them is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.errors import GraphError
from graphc.ir.inputs import bind_input, inputs_of
from graphc.ir.program import Program
from graphc.ir.verify import verify


class Embeddings(nn.Module):
    """Words, kinds and positions summed, as in BERT; a scale; a mask that is a float."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words, self.kinds, self.places = nn.Embedding(11, 4), nn.Embedding(3, 4), nn.Embedding(9, 4)
        self.head = nn.Linear(4, 9, bias=False)
        if tied:
            self.head.weight = self.places.weight

    def forward(self, ids: Tensor, kinds: Tensor, scale: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])
        hidden = self.words(ids) * scale[:, None, None] + self.kinds(kinds) + self.places(places)
        return self.head(hidden.relu())


def ids(batch: int, length: int, most: int = 11) -> Tensor:
    return torch.randint(0, most, (batch, length))


def captured(model: nn.Module | None = None) -> Program:
    inputs = {"ids": ids(3, 7), "kinds": ids(3, 7, 3), "scale": torch.rand(3)}
    both = {0: "batch", 1: "length"}
    return graphc.capture(
        model or Embeddings(), (), inputs, dynamic={"ids": both, "kinds": both, "scale": {0: "batch"}}
    )


def test_a_row_becomes_part_of_the_smallest_table_and_the_input_is_gone() -> None:
    program = captured()
    result = bind_input(program, "kinds", 2, note="bound")
    verify(result)
    words, scale = ids(5, 4), torch.rand(5)
    wanted = program(ids=words, kinds=torch.full_like(words, 2), scale=scale)
    torch.testing.assert_close(result(ids=words, scale=scale), wanted)
    before, after = program.tensors(), result.tensors()
    torch.testing.assert_close(after["places.weight"], before["places.weight"] + before["kinds.weight"][2])
    assert after["words.weight"] is before["words.weight"]
    assert after.keys() == before.keys() - {"kinds.weight"}
    assert [str(s) for s in result.contract.inputs] == ["ids: int64[batch, length]", "scale: float32[batch]"]
    assert result.contract.order() == ["ids", "kinds", "scale"]
    assert set(result.contract.kwargs) == set(result.contract.dynamic) == {"ids", "scale"}
    assert result.history == ("bound",)
    assert len(program.contract.inputs) == 3


def test_a_tied_table_takes_nothing_and_the_row_stays_a_trained_tensor() -> None:
    program = captured(Embeddings(tied=True))
    result = bind_input(program, "kinds", 1)
    verify(result)
    words, scale = ids(2, 9), torch.rand(2)
    torch.testing.assert_close(
        result(ids=words, scale=scale), program(ids=words, kinds=torch.ones_like(words), scale=scale)
    )
    (folded,) = result.tensors().keys() - program.tensors().keys()
    row = result.tensors()[folded]
    assert isinstance(row, nn.Parameter)
    torch.testing.assert_close(row.flatten(), program.tensors()["kinds.weight"][1])
    assert result.tensors()["places.weight"] is program.tensors()["places.weight"]
    assert result.aliases == program.aliases


def test_sizes_that_were_read_off_the_input_are_read_off_another(tmp_path: Any) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            ones = torch.ones(mask.shape[0], mask.shape[1], 2)
            return (x + ones * mask[..., None]).cumsum(1) * mask.cumsum(1)[..., None]

    net, both = Net(), {0: "batch", 1: "length"}
    program = graphc.capture(net, (torch.randn(3, 7, 2), torch.rand(3, 7)), dynamic={"x": both, "mask": both})
    result = bind_input(program, "mask", 0.5)
    verify(result)
    x = torch.randn(4, 5, 2)
    torch.testing.assert_close(result(x), net(x, torch.full((4, 5), 0.5)))
    for name in ("net.onnx", "net.pt2", "net/"):
        graphc.emit(result, tmp_path / name)
    assert [s.name for s in graphc.load(tmp_path / "net.pt2").contract.inputs] == ["x"]
    torch.testing.assert_close(graphc.load(tmp_path / "net")(x), result(x))


class Conditioned(nn.Module):
    """A network of images and a step in time, as those of diffusion are: the step scales and shifts every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 8)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, step: Tensor, x: Tensor) -> Tensor:
        angles = step[:, None].float() * torch.arange(1.0, 4.0)
        state = self.outer(nn.functional.silu(self.inner(torch.cat([angles.sin(), angles.cos()], 1))))
        scale, shift = state.softmax(-1)[:, :, None, None].chunk(2, 1)
        return self.conv(x) * (1 + scale) + shift


def test_all_that_follows_from_a_step_in_time_is_computed() -> None:
    model = Conditioned()
    program = graphc.capture(model, (torch.tensor([4, 5, 6]), torch.randn(3, 3, 8, 8)))
    result = bind_input(program, "step", 7)
    verify(result)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(result(x), model(torch.full((5,), 7), x))
    assert not any(name.startswith(("inner", "outer")) for name in result.tensors())


def test_a_mask_of_ones_is_the_model_without_a_mask() -> None:
    transformers = pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
    config = transformers.DistilBertConfig(
        vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=12
    )
    model = transformers.DistilBertModel(config).eval()
    words, both = ids(3, 7), {0: "batch", 1: "length"}
    inputs = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    program = graphc.capture(model, (), inputs, dynamic=dict.fromkeys(inputs, both))
    result = bind_input(program, "attention_mask", 1)
    verify(result)
    words = ids(5, 9)
    found = result(input_ids=words)["last_hidden_state"]
    torch.testing.assert_close(found, model(input_ids=words).last_hidden_state)


def test_values_with_a_size_of_their_own_where_the_input_is_fixed() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, weights: Tensor) -> Tensor:
            return (x * weights.softmax(-1)).sum(-1)

    program = graphc.capture(Net(), (torch.randn(3, 4), torch.randn(3, 4)))
    result = bind_input(program, "weights", [0.0, 1.0, 2.0, 3.0])
    x = torch.randn(5, 4)
    weights = torch.arange(4.0)
    torch.testing.assert_close(result(x), (x * weights.softmax(0)).sum(-1))
    (folded,) = result.tensors().values()
    torch.testing.assert_close(folded, weights.softmax(0)[None])
    assert not isinstance(folded, nn.Parameter)


def test_inputs_of_the_whole_program_are_what_is_given_or_the_constant() -> None:
    program = captured()
    part = bind_input(program, "kinds", 1)
    words, scale, kinds = ids(5, 4), torch.rand(5), ids(5, 4, 3)
    _, filled = inputs_of(program.contract, part.contract, (), {"ids": words, "scale": scale}, {})
    assert torch.equal(filled["kinds"], torch.ones(5, 4, dtype=torch.int64))
    assert filled["ids"] is words
    _, filled = inputs_of(program.contract, part.contract, (), {"ids": words, "scale": scale}, {"kinds": kinds})
    assert filled["kinds"] is kinds


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kind", 0, "did you mean 'kinds'"),
        ("kinds", 0.0, "the value is float32 and not all of it is such a number"),
        ("kinds", [[0] * 7] * 3, r"the value is of shape \[3, 7\], which does not broadcast"),
        ("kinds", [[[0]]], "does not broadcast"),
        ("kinds", [0, [1]], "the value is no tensor"),
        ("kinds", torch.zeros(1, 1), "the value is float32"),
        ("kinds", 10**20, "the value is no tensor"),
        ("scale", True, "the value is bool"),
    ],
)
def test_values_that_do_not_fit(name: str, value: Any, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        bind_input(captured(), name, value)


def test_inputs_that_cannot_be_bound() -> None:
    program = bind_input(captured(), "kinds", 0)
    with pytest.raises(GraphError, match="it is a constant already"):
        bind_input(program, "kinds", 0)
    with pytest.raises(GraphError, match="no other input has its dynamic dim 'length'"):
        bind_input(program, "ids", 0)
    single = graphc.capture(nn.Linear(3, 3), (torch.randn(4, 3),))
    with pytest.raises(GraphError, match="it is the only input"):
        bind_input(single, "input", 0.0)

    class Pair(nn.Module):
        def forward(self, pair: list[Tensor], x: Tensor) -> Tensor:
            return pair[0] + pair[1] + x

    pair = graphc.capture(Pair(), ([torch.randn(4, 3), torch.randn(4, 3)], torch.randn(4, 3)))
    with pytest.raises(GraphError, match="part of an argument"):
        bind_input(pair, pair.contract.inputs[0].name, 0.0)
