"""Editing: redirect, training mode, folding. The program that is edited stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphc
from graphc.errors import GraphError
from graphc.ir.edit import find, fold_constants, rebuild, redirect, set_training
from tests import models
from tests.models import image, seeded, tokens, vectors

aten = torch.ops.aten


class Stack(nn.Module):
    """Four equal layers with dropout, one of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.dropout(layer(x), 0.1, self.training)
        return self.last(x)


def stack() -> graphc.Program:
    return graphc.capture(seeded(Stack), (vectors(),))


def linears(program: graphc.Program) -> list[str]:
    return [node.name for node in program.graph.find_nodes(op="call_function", target=aten.linear.default)]


def expected(program: graphc.Program, *layers: int) -> Tensor:
    tensors = program.tensors()
    x = vectors()
    for i in layers:
        x = nn.functional.linear(x, tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"])
    return nn.functional.linear(x, tensors["last.weight"], tensors["last.bias"])


def drops(program: graphc.Program) -> list[str]:
    return [node.name for node in program.graph.find_nodes(op="call_function", target=aten.dropout.default)]


def test_redirect_removes_a_layer_and_its_tensors() -> None:
    program = stack()
    a, b, _, _ = drops(program)
    shorter = redirect(program, {b: a}, note="without layer 1")
    torch.testing.assert_close(shorter(vectors()), expected(program, 0, 2, 3))
    assert len(linears(shorter)) == 4
    assert len(drops(shorter)) == 3
    assert "layers.1.weight" not in shorter.tensors()
    assert shorter.history == ("without layer 1",)
    assert len(linears(program)) == 5


def test_a_chain_of_redirects_means_the_same_in_any_order() -> None:
    program = stack()
    a, b, c, _ = drops(program)
    for changes in ({c: b, b: a}, {b: a, c: b}):
        shorter = redirect(program, changes)
        torch.testing.assert_close(shorter(vectors()), expected(program, 0, 3))
        assert len(linears(shorter)) == 3


def test_redirect_to_the_input_where_it_fits() -> None:
    program = stack()
    shorter = redirect(program, {drops(program)[3]: "x"})
    torch.testing.assert_close(shorter(vectors()), expected(program))
    assert shorter.contract == program.contract


@pytest.mark.parametrize("circle", [(0, 0), (0, 1)])
def test_circles_are_refused(circle: tuple[int, int]) -> None:
    program = stack()
    first, second = (drops(program)[i] for i in circle)
    with pytest.raises(GraphError, match=f"circle: {first} -> "):
        redirect(program, {first: second, second: first})


def test_redirect_refuses_other_shapes_later_values_and_unknown_names() -> None:
    program = stack()
    a, b, *_ = drops(program)
    with pytest.raises(GraphError, match=r"same shape and dtype") as caught:
        redirect(program, {linears(program)[-1]: a})
    assert "6]" in caught.value.why
    assert "2]" in caught.value.why
    with pytest.raises(GraphError, match=f"{b} is computed after {a}"):
        redirect(program, {a: b})
    with pytest.raises(GraphError, match="did you mean"):
        redirect(program, {"droput_1": a})
    with pytest.raises(GraphError, match="not a value"):
        redirect(program, {"output": a})


def test_a_later_value_is_refused_at_the_end_of_a_chain_too() -> None:
    program = stack()
    a, b, c, _ = drops(program)
    with pytest.raises(GraphError, match=f"{c} is computed after {b}"):
        redirect(program, {b: a, a: c})


def test_training_mode_drops_out_and_back() -> None:
    program = models.residual()
    training = set_training(program, True)
    x = image()
    assert training.module.training
    assert not torch.equal(training(x), training(x))
    with torch.no_grad():
        assert torch.equal(set_training(training, False)(x).shape and program(x), program(x))
    assert str(set_training(training, False)) == str(program)


def test_training_updates_statistics_of_its_own() -> None:
    model = seeded(models.Residual)
    program = graphc.capture(model, (image(),))
    before = {name: value.clone() for name, value in program.tensors().items()}
    training = set_training(program, True)
    optimizer = torch.optim.SGD(training.parameters(), 0.1)
    training(image()).square().mean().backward()
    optimizer.step()
    for name in ("norm.running_mean", "norm.running_var", "norm1.running_mean", "norm1.running_var"):
        assert not torch.equal(training.tensors()[name], before[name]), name
        assert torch.equal(program.tensors()[name], before[name]), name
        assert torch.equal(model.get_buffer(name), before[name]), name
    assert not torch.equal(training.tensors()["head.weight"], before["head.weight"])
    learnt = set_training(training, False)
    assert learnt.tensors()["norm.running_mean"] is training.tensors()["norm.running_mean"]
    assert torch.equal(learnt(image()), learnt(image()))


def test_training_again_leaves_the_first_training_alone() -> None:
    first = set_training(models.residual(), True)
    before = first.tensors()["norm.running_mean"].clone()
    set_training(first, True)(image())
    assert torch.equal(first.tensors()["norm.running_mean"], before)


class Instance(nn.Module):
    def __init__(self, track: bool) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(3, track_running_stats=track)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@pytest.mark.parametrize("track", [True, False])
def test_instance_norm_is_switched_only_where_it_has_statistics(track: bool) -> None:
    model = seeded(Instance, track)
    program = graphc.capture(model, (image(),))
    training = set_training(program, True)
    torch.testing.assert_close(training(image()), Instance(False)(image()))
    torch.testing.assert_close(set_training(training, False)(image()).shape, image().shape)
    evaluated = set_training(set_training(program, True), False)
    torch.testing.assert_close(evaluated(image()), model(image()))


def test_an_edited_program_keeps_its_mode() -> None:
    program = stack()
    assert rebuild(program).module.training is False
    assert rebuild(set_training(program, True)).module.training is True


class Foldable(nn.Module):
    """A weight that is computed from parameters, one that is a view, and a random constant."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(5, 3))
        self.right = nn.Parameter(torch.randn(3, 6))
        self.view = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.left @ self.right).tanh()) @ self.view.t().t()


def test_folding_makes_buffers_of_what_depends_on_parameters_alone() -> None:
    program = graphc.capture(seeded(Foldable), (vectors(),))
    folded = fold_constants(program, note="folded")
    torch.testing.assert_close(folded(vectors()), program(vectors()))
    assert set(folded.tensors()) == {"folded_tanh", "view"}
    assert [tuple(p.shape) for p in folded.parameters()] == [(5, 4)]
    assert folded.history == ("folded",)
    assert set(program.tensors()) == {"left", "right", "view"}
    assert fold_constants(folded) is folded


def test_folding_twice_keeps_names_apart() -> None:
    folded = fold_constants(graphc.capture(seeded(Foldable), (vectors(),)))

    def shift(graph: torch.fx.Graph) -> None:
        weight = find(graph, "folded_tanh")
        with graph.inserting_after(weight):
            shifted = graph.create_node("call_function", aten.add.Tensor, (weight, 1.0), name="tanh")
        weight.replace_all_uses_with(shifted, delete_user_cb=lambda user: user is not shifted)

    moved = rebuild(folded, shift)
    again = fold_constants(moved)
    torch.testing.assert_close(again(vectors()), moved(vectors()))
    assert set(again.tensors()) == {"folded_tanh_2", "view"}


def test_nothing_to_fold_gives_the_program_itself() -> None:
    program = models.transformer()
    assert fold_constants(program) is program


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.bernoulli(self.weight * 0.5)


def test_random_ops_are_not_folded() -> None:
    folded = fold_constants(graphc.capture(Noisy(), (vectors(),)))
    assert set(folded.tensors()) == {"folded_mul"}
    assert not torch.equal(folded(vectors()), folded(vectors()))


def test_find_offers_the_nearest_name() -> None:
    with pytest.raises(GraphError, match="'linear_1'"):
        find(stack().graph, "linaer_1")


def test_resized_examples_run() -> None:
    program = models.transformer()
    args, kwargs = program.contract.resized(batch=5, seq=7)
    assert args[0].shape == (5, 7)
    assert program(*args, **kwargs).shape == (5, 7, 37)
    assert torch.equal(program.contract.resized(seq=13)[0][0][:, 11:], tokens()[:, :2])
    assert program.contract.resized()[0][0] is program.contract.args[0]
    with pytest.raises(GraphError, match="'batch'"):
        program.contract.resized(bach=2)


class Standardised(torch.nn.Module):
    """Weight standardisation written as a batch norm without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(5, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, 5, -1)
        weight = torch.nn.functional.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return torch.nn.functional.conv2d(x, weight)


def test_a_norm_without_statistics_is_the_same_in_both_modes() -> None:
    program = graphc.capture(Standardised(), (torch.randn(4, 3, 6, 7),))
    x = torch.randn(2, 3, 6, 7)
    there = graphc.set_training(program, True)
    back = graphc.set_training(there, False)
    assert torch.equal(program(x), there(x))
    assert torch.equal(program(x), back(x))
