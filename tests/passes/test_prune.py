from __future__ import annotations

from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, PruneHeads, PruneLayers, PruneWidth

import graphc
from graphc.errors import RecipeError
from tests import models


def relative(a: Any, b: Any) -> float:
    first, second = ([t.detach() for t in torch.utils._pytree.tree_leaves(x)] for x in (a, b))
    return max(float((x - y).norm() / y.norm()) for x, y in zip(first, second, strict=True))


def shape(program: graphc.Program, name: str) -> tuple[int, ...]:
    return tuple(program.tensors()[name].shape)


@pytest.fixture(scope="module")
def bert() -> graphc.Program:
    model, inputs = models.tiny_bert()
    dims = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return graphc.capture(models.randomise(model), (), inputs, dynamic=dims)


def test_filters_by_ratio() -> None:
    program = models.residual()
    done = graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.5)])
    assert shape(done.program, "conv1.weight") == (12, 6, 3, 3)
    assert shape(done.program, "norm1.running_mean") == (12,)
    assert shape(program, "conv1.weight") == (24, 12, 3, 3)
    assert done.report["after"]["params"] < done.report["before"]["params"]


def test_filters_by_name_are_the_ones_that_go() -> None:
    program = models.residual()
    done = graphc.compile(program, passes=[PruneFilters(filters={"conv1": [0, 5, 7]})]).program
    kept = [i for i in range(24) if i not in (0, 5, 7)]
    assert torch.equal(done.tensors()["conv1.weight"], program.tensors()["conv1.weight"][kept])
    masked = graphc.mask(program, {"conv1.out": kept})
    x = models.image(batch=6)
    assert relative(done(x), masked(x)) < 1e-5


@pytest.mark.parametrize("ranking", ["local", "global"])
@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_macs_budget_is_met_closely(ranking: Any, importance: Any) -> None:
    program = graphc.capture(models.Residual(width=64), (models.image(),))
    prune = PruneFilters(constraints={"macs": "50%"}, ranking=ranking, importance=importance, mixed=True)
    report = graphc.compile(program, passes=[prune]).report
    share = report["after"]["macs"] / report["before"]["macs"]
    assert 0.47 < share <= 0.5


def test_several_budgets_hold_together() -> None:
    program = graphc.capture(models.Residual(width=64), (models.image(),))
    prune = PruneFilters(constraints={"macs": "70%", "params": "40%"}, mixed=True)
    report = graphc.compile(program, passes=[prune]).report
    assert report["after"]["params"] <= 0.4 * report["before"]["params"]
    assert report["after"]["macs"] <= 0.7 * report["before"]["macs"]


def test_round_to_leaves_multiples() -> None:
    program = graphc.capture(models.Residual(width=64), (models.image(),))
    done = graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.4, round_to=16, ranking="global")])
    assert shape(done.program, "conv1.weight")[0] % 16 == 0


def test_heads_by_number_and_by_name(bert: graphc.Program) -> None:
    heads = [axis for axis in graphc.find_axes(bert) if "heads" in axis.roles and axis.pinned is None]
    first, second = heads[:2]
    done = graphc.compile(bert, passes=[PruneHeads(heads={0: [1], second.name: [0, 2]})]).program
    sizes = [axis.size for axis in graphc.find_axes(done) if "heads" in axis.roles and axis.pinned is None]
    assert sizes[:2] == [first.size - 1, second.size - 2]
    keep = {first.name: [u for u in range(first.size) if u != 1], second.name: [1, 3][: second.size - 2]}
    args, kwargs = bert.contract.resized(batch=5, sequence=9)
    masked = graphc.mask(bert, keep)(*args, **kwargs)
    assert relative(done(*args, **kwargs).logits, masked.logits) < 1e-5


def test_width_leaves_heads_and_hidden_size_alone(bert: graphc.Program) -> None:
    done = graphc.compile(bert, passes=[PruneWidth(pruning_ratio=0.5, targets=("re:.*intermediate",))]).program
    before, after = bert.tensors(), done.tensors()
    halved = [name for name in before if before[name].shape != after[name].shape]
    assert halved
    assert all("intermediate" in name or "output.dense" in name for name in halved)


def test_width_mixed_cuts_the_hidden_size() -> None:
    program = models.transformer()
    done = graphc.compile(program, passes=[PruneWidth(pruning_ratio=0.5, mixed=True)]).program
    widths = {tuple(t.shape) for n, t in done.tensors().items() if "norm" in n and t.dim() == 1}
    before = {tuple(t.shape) for n, t in program.tensors().items() if "norm" in n and t.dim() == 1}
    assert {2 * w[0] for w in widths} == {w[0] for w in before}


def test_layers_by_number_equal_the_shorter_model(bert: graphc.Program) -> None:
    model, inputs = models.tiny_bert()
    model = models.randomise(model)
    program = graphc.capture(model, (), inputs, dynamic={name: {0: "batch", 1: "sequence"} for name in inputs})
    done = graphc.compile(program, passes=[PruneLayers(layers=(0,))]).program
    assert not any(name.startswith("bert.encoder.layer.0.") for name in done.tensors())
    model.bert.encoder.layer = model.bert.encoder.layer[1:]
    with torch.no_grad():
        expected = model.eval()(**inputs)
    assert relative(done(**inputs).logits, expected.logits) < 1e-6


def test_consecutive_layers_go_together() -> None:
    program = models.transformer()
    names = [layer.name for layer in graphc.explain(program).layers]
    assert len(names) >= 2
    done = graphc.compile(program, passes=[PruneLayers(layers=tuple(names[:2]))]).program
    assert [layer.name for layer in graphc.explain(done).layers] == names[2:]
    assert not any(t.startswith((names[0] + ".", names[1] + ".")) for t in done.tensors())


class Flat(torch.nn.Module):
    """Residual blocks that no module path names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = x + self.b(x).relu()
        return x + self.c(x).relu()


def test_regions_are_layers_where_no_path_names_them() -> None:
    program = graphc.capture(Flat(), (torch.randn(3, 8),))
    done = graphc.compile(program, passes=[PruneLayers(layers=(0,))]).program
    x = torch.randn(5, 8)
    model = program.module
    expected = model.a.weight @ x.T + model.a.bias[:, None]
    expected = expected.T + torch.relu(expected.T @ model.c.weight.T + model.c.bias)
    assert relative(done(x), expected) < 1e-6
    assert set(done.tensors()) == {"a.weight", "a.bias", "c.weight", "c.bias"}


def test_layers_by_ratio_take_the_least_magnitude() -> None:
    model = Flat()
    with torch.no_grad():
        model.b.weight *= 0.01
        model.b.bias *= 0.01
    program = graphc.capture(model, (torch.randn(3, 8),))
    done = graphc.compile(program, passes=[PruneLayers(pruning_ratio=0.5)]).program
    assert "b.weight" not in done.tensors()
    assert "c.weight" in done.tensors()


def test_passes_in_a_row_compose(bert: graphc.Program) -> None:
    passes = [
        PruneHeads(pruning_ratio=0.5),
        PruneWidth(pruning_ratio=0.5, targets=("bert.encoder",)),
        PruneLayers(layers=(1,)),
    ]
    done = graphc.compile(bert, passes=passes)
    assert [step["name"] for step in done.report["passes"]] == ["prune-heads", "prune-width", "prune-layers"]
    assert [note.partition("(")[0] for note in done.program.history] == ["prune-heads", "prune-width", "prune-layers"]
    args, kwargs = bert.contract.resized(batch=2, sequence=5)
    assert done.program(*args, **kwargs).logits.shape[0] == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: PruneFilters(pruning_ratio=1.2),
            ["pruning_ratio", "1.2", "less than 1", "graphc passes prune-filters"],
        ),
        (lambda: PruneFilters(pruning_ratio=0.5, filters={"a": [1]}), ["exactly one of"]),
        (lambda: PruneFilters(), ["exactly one of"]),
        (lambda: PruneLayers(), ["exactly one of"]),
        (lambda: PruneHeads(pruning_ratio=0.5, importance="l3"), ["importance", "l3", "'l2' or 'l1'"]),
        (lambda: PruneHeads(pruning_ratio=0.5, round_to=0), ["round_to", "greater than or equal to 1"]),
    ],
)
def test_wrong_options_are_refused_when_the_pass_is_made(make: Any, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("prune", "words"),
    [
        (PruneFilters(filters={"conv9": [0]}), ["'conv9' matches nothing", "conv1"]),
        (PruneFilters(filters={"conv1": [99]}), ["no unit 99", "24 units"]),
        (PruneFilters(filters={17: [0]}), ["number 17 does not exist"]),
        (PruneFilters(pruning_ratio=0.5, targets=("cnv1",)), ["'cnv1' matches nothing"]),
        (PruneFilters(pruning_ratio=0.5, ignore=("re:(",)), ["not a valid pattern"]),
        (PruneFilters(constraints={"mcas": "50%"}), ["no constraint is called 'mcas'"]),
        (PruneFilters(constraints={"macs": "150%"}), ["cannot be met"]),
        (PruneFilters(constraints={"macs": "0.001%"}), ["cannot meet the constraints"]),
        (PruneHeads(pruning_ratio=0.5), ["finds nothing that it may cut"]),
        (PruneLayers(layers=("blocks.0",)), ["matches nothing"]),
    ],
)
def test_names_that_do_not_fit_the_program_are_refused(prune: graphc.Pass, words: list[str]) -> None:
    with pytest.raises(graphc.GraphError) as caught:
        graphc.compile(models.residual(), passes=[prune])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_grouped_query_attention_loses_whole_groups() -> None:
    model, inputs = models.tiny_llama()
    program = graphc.capture(model, (), inputs)
    before = {a.name: a.size for a in graphc.find_axes(program) if "heads" in a.roles and a.pinned is None}
    done = graphc.compile(program, passes=[PruneHeads(pruning_ratio=0.5)]).program
    after = {a.name: a.size for a in graphc.find_axes(done) if "heads" in a.roles and a.pinned is None}
    kv = [name for name in before if name.endswith("heads")]
    assert kv
    assert all(after.get(name, 1) == before[name] // 2 for name in kv)
    assert all(after[name] == before[name] for name in before if name.endswith("repeat"))
