"""How many units go and from where: ranking, ratios, budgets, steps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters, PruneHeads, PruneWidth
from torch import nn

import graphc
from graphc.coupling import analyze
from graphc.coupling.cost import budget, one_sample
from graphc.errors import GraphError, RecipeError
from tests import models


def sizes(program: graphc.Program) -> dict[str, int]:
    return {axis.name: axis.size for axis in graphc.find_axes(program) if axis.pinned is None}


class Stages(nn.Module):
    """Two stages of two blocks: inner widths and stage widths are of two forms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.ModuleList([nn.Conv2d(c, 2 * c, 3, padding=1) for c in (16, 16, 24, 24)])
        self.outer = nn.ModuleList([nn.Conv2d(2 * c, c, 3, padding=1) for c in (16, 16, 24, 24)])
        self.down = nn.Conv2d(16, 24, 1)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            x = self.down(x) if i == 2 else x
            x = x + outer(inner(x).relu())
        return self.head(x)


def stages() -> graphc.Program:
    torch.manual_seed(0)
    model = Stages()
    with torch.no_grad():  # inner widths have far smaller weights
        for layer in model.inner:
            layer.weight.mul_(0.01)
            layer.bias.mul_(0.01)
        for layer in model.outer:
            layer.weight.mul_(0.01)
    return graphc.capture(model, (torch.randn(3, 3, 12, 12),))


def test_isomorphic_takes_its_share_of_every_form() -> None:
    program = stages()
    before = sizes(program)
    prune = PruneFilters(pruning_ratio=0.5, ranking="isomorphic", normalization="none", importance="l1")
    after = sizes(graphc.compile(program, passes=[prune]).program)
    for form in ("inner", "down"):
        names = [name for name in before if name.startswith(form) or (form == "down" and name.startswith("stem"))]
        gone = sum(before[n] - after.get(n, 1) for n in names)
        assert gone == sum(before[n] for n in names) // 2
    globally = PruneFilters(pruning_ratio=0.5, ranking="global", normalization="none", importance="l1")
    after = sizes(graphc.compile(program, passes=[globally]).program)
    assert all(after[n] == before[n] for n in before if n.startswith(("stem", "down")))


def test_no_axis_loses_more_than_the_greatest_ratio() -> None:
    program = stages()
    before = sizes(program)
    options: dict[str, Any] = {"ranking": "global", "normalization": "none", "importance": "l1", "pruning_ratio": 0.6}
    after = sizes(graphc.compile(program, passes=[PruneFilters(max_pruning_ratio=0.75, **options)]).program)
    assert all(after[n] >= before[n] / 4 for n in before)
    assert min(after[n] / before[n] for n in before) == 0.25
    after = sizes(graphc.compile(program, passes=[PruneFilters(min_size=11, **options)]).program)
    assert min(after.values()) == 11


def test_ratios_of_their_own() -> None:
    program = stages()
    prune = PruneFilters(pruning_ratio=0.5, pruning_ratios={"inner.0": 0.25, "re:inner.3": 0})
    after = sizes(graphc.compile(program, passes=[prune]).program)
    assert [after[f"inner.{i}.out"] for i in range(4)] == [24, 16, 24, 48]
    with pytest.raises(RecipeError, match=r"'inner.9' matches nothing"):
        graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.5, pruning_ratios={"inner.9": 0.1})])


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, 16, 16, generator=generator), torch.randint(0, 5, (4,), generator=generator))]


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
@pytest.mark.parametrize("way", [{"pruning_ratio": 0.5}, {"constraints": {"params": "40%"}}])
def test_steps_reach_what_one_step_does(schedule: Any, way: Any) -> None:
    program = graphc.capture(models.Residual(width=32), (torch.randn(3, 3, 16, 16),))
    seen: list[int] = []

    class Watched(PruneFilters):
        def ranked(self, analysis: Any, *rest: Any) -> Any:
            seen.append(budget(analysis, None, **one_sample(analysis.program)).params)
            return super().ranked(analysis, *rest)

    prune = Watched(iterative_steps=4, schedule=schedule, importance="taylor", **way)
    many = graphc.compile(program, passes=[prune], data={"calibration": data()}).program
    once = graphc.compile(program, passes=[PruneFilters(importance="l2", **way)]).program
    if "pruning_ratio" in way:
        assert sizes(many) == sizes(once)
    else:
        counts = [sum(p.numel() for p in x.parameters()) for x in (program, many)]
        assert 0.38 < counts[1] / counts[0] <= 0.4
    assert len(seen) == 4
    assert all(a > b for a, b in itertools.pairwise(seen))
    if schedule == "cubic":
        assert seen[0] - seen[1] > seen[1] - seen[2] > seen[2] - seen[3]


def test_stages_run_after_every_step() -> None:
    program = graphc.capture(models.Residual(width=32), (torch.randn(3, 3, 16, 16),))
    prune = PruneFilters(pruning_ratio=0.5, iterative_steps=3, between=({"type": "recalibrate"},))
    with pytest.raises(RecipeError, match="statistics of batch norms"):
        graphc.compile(program, passes=[prune])
    done = graphc.compile(program, passes=[prune], data={"calibration": data()}).program
    assert done.tensors()["norm.running_var"].shape == (16,)
    assert not torch.equal(done.tensors()["norm.running_var"], torch.ones(16))
    with pytest.raises(RecipeError, match=r"between\[0\]"):
        PruneFilters(pruning_ratio=0.5, between=({"type": "recalibrat"},))


MODELS = {
    "residual": lambda: graphc.capture(models.Residual(width=48), (torch.randn(3, 3, 16, 16),)),
    "stages": stages,
}


@pytest.mark.parametrize("number", range(20))
def test_budgets_are_met_within_one_percent(number: int) -> None:
    """Twenty random budgets: at most what is asked, and one step less would be too much."""
    draw = torch.Generator().manual_seed(number)

    def pick(options: list[Any]) -> Any:
        return options[int(torch.randint(0, len(options), (1,), generator=draw))]

    program = MODELS[pick(list(MODELS))]()
    kinds = pick([["macs"], ["params"], ["bytes"], ["macs", "params"]])
    shares = {kind: pick([25, 35, 50, 65, 80]) for kind in kinds}
    round_to = pick([1, 1, 4, 8])
    prune = PruneFilters(
        constraints={kind: f"{share}%" for kind, share in shares.items()},
        ranking=pick(["local", "global", "isomorphic"]),
        round_to=round_to,
        importance=pick(["l1", "l2", "random"]),
        mixed=True,
    )
    done = graphc.compile(program, passes=[prune]).program
    before, after = (budget(analyze(p), None, **one_sample(p)) for p in (program, done))
    reached = {kind: getattr(after, kind) / getattr(before, kind) * 100 for kind in kinds}
    assert all(reached[kind] <= shares[kind] for kind in kinds)
    nearest = min(shares[kind] - reached[kind] for kind in kinds)
    step = {1: 1.0, 4: 6.0, 8: 12.0}[round_to]  # these nets have up to a twelfth of their cost in one step of 8
    assert nearest <= step, reached


def test_a_budget_below_what_is_pinned_says_what_can_be_reached() -> None:
    program = stages()
    with pytest.raises(GraphError, match=r"the least that it can reach is [\d,]+ params \(0\.\d%\)"):
        graphc.compile(program, passes=[PruneFilters(constraints={"params": "0.01%"})])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PruneFilters(pruning_ratio=0.99), r"would leave nothing of .*lower the ratio"),
        (lambda: PruneFilters(pruning_ratio=0.5, ignore=("re:.*",)), "ignore leaves nothing"),
        (lambda: PruneFilters(pruning_ratio=0.5, importance="taylor"), "needs data called 'calibration'"),
    ],
)
def test_bad_choices_are_refused_before_anything_runs(make: Any, words: str) -> None:
    with pytest.raises(GraphError, match=f"(?s){words}"):
        graphc.compile(stages(), passes=[make()])


@pytest.mark.parametrize(
    "options",
    [
        {"constraints": {"macs": "50%"}, "pruning_ratios": {"a": 0.1}},
        {"filters": {"a": [0]}, "iterative_steps": 2},
        {"pruning_ratio": 0.5, "loss": "cros-entropy"},
        {"pruning_ratio": 0.5, "ranking": "isomorph"},
    ],
)
def test_options_that_do_not_go_together(options: Any) -> None:
    with pytest.raises(RecipeError):
        PruneFilters(**options)


def test_heads_by_their_gates() -> None:
    model, inputs = models.tiny_bert()
    dims = {name: {0: "batch", 1: "sequence"} for name in inputs}
    program = graphc.capture(models.randomise(model), (), inputs, dynamic=dims)
    generator = torch.Generator().manual_seed(0)
    batches = [
        {name: value[:2] for name, value in inputs.items()} | {"labels": torch.randint(0, 5, (2,), generator=generator)}
    ]
    assert PruneWidth(pruning_ratio=0.5).needs_data() == {}
    for importance in ("gate", "attention_variance", "activation"):
        prune = PruneHeads(pruning_ratio=0.5, importance=importance, loss="tests.passes.test_choosing:squares")
        done = graphc.compile(program, passes=[prune], data={"calibration": batches}).program
        heads = [a.size for a in graphc.find_axes(done) if "heads" in a.roles and a.pinned is None]
        assert heads
        assert set(heads) == {2}


def squares(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """A loss of one's own."""
    return (outputs.logits - nn.functional.one_hot(labels, 5)).square().mean()
