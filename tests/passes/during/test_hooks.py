"""Hooks: gradual sparsity follows its schedule, frozen weights stay, a user's own hook is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from graphc.passes import Distill, Finetune, Hook, PruneFilters, Sparsify
from graphc.passes.during import Actions, GradualSparsity, make_hook

import graphc
from graphc.ir.masks import find_masks
from tests import models
from tests.passes.training.tasks import classifier, eval_batches, train_batches

pytest.importorskip("accelerate", reason="training needs the extra `train`")
SEEN: list[tuple[str, int, float]] = []


def share(program: graphc.Program) -> float:
    """Of zeros among the masked weights."""
    tensors = program.tensors()
    values = [tensors[m.weight] * tensors[m.mask] for m in find_masks(program)]
    return sum(int((v == 0).sum()) for v in values) / max(1, sum(v.numel() for v in values))


@dataclass(frozen=True, kw_only=True)
class Look(Hook):
    """Remembers the share of zeros before and after each step."""

    type: ClassVar[str] = "look"

    def start(self, program: graphc.Program) -> Actions:
        def note(when: str) -> Any:
            return lambda step, steps: SEEN.append((when, step, share(program)))

        return Actions(note("before"), note("after"))


def tuned(program: graphc.Program, *during: dict[str, Any], **options: Any) -> graphc.Program:
    data = {"train": train_batches, "eval": eval_batches}
    passes = [Finetune(steps=20, learning_rate=0.01, during=during, **options)]
    return graphc.compile(program, passes=passes, data=data).program


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_sparsity_grows_by_the_cubic_schedule(scope: str) -> None:
    SEEN.clear()
    hook = {"type": "gradual-sparsity", "sparsity": 0.8, "initial_sparsity": 0.2, "begin": 0.2, "end": 0.8}
    result = tuned(classifier(), {**hook, "frequency": 2, "scope": scope}, {"type": "look"})
    after = {step: found for when, step, found in SEEN if when == "after"}
    for step in range(1, 21):
        at = min(16, step - step % 2)
        wanted = 0.0 if at < 4 else 0.8 + (0.2 - 0.8) * (1 - (at - 4) / 12) ** 3
        assert after[step] == pytest.approx(wanted, abs=0.01), step
    assert share(result) == pytest.approx(0.8, abs=0.01)
    tensors = result.tensors()
    if scope == "tensor":
        for mask in find_masks(result):
            assert float((tensors[mask.mask] == 0).float().mean()) == pytest.approx(0.8, abs=0.02)
    for mask in find_masks(result):
        assert not tensors[mask.weight][tensors[mask.mask] == 0].any()


def test_what_was_zero_before_stays_zero(tmp_path: Path) -> None:
    once = graphc.compile(classifier(), passes=[Sparsify(sparsity=0.5)]).program
    before = {mask.weight: once.tensors()[mask.mask] == 0 for mask in find_masks(once)}
    result = tuned(once, {"type": "gradual-sparsity", "sparsity": 0.7, "initial_sparsity": 0.5, "frequency": 1})
    for name, zeros in before.items():
        assert not result.tensors()[name][zeros].any()
        assert bool((once.tensors()[name][~zeros] != 0).all()), "the given program was changed"
    assert share(result) == pytest.approx(0.7, abs=0.01)


def test_frozen_weights_stay_and_can_be_trained_again() -> None:
    program = classifier()
    result = tuned(program, {"type": "freeze", "targets": ["re:first"], "ignore": ["first.bias"]})
    before, after = program.tensors(), result.tensors()
    assert torch.equal(after["first.weight"], before["first.weight"])
    assert not torch.equal(after["first.bias"], before["first.bias"])
    assert all(p.requires_grad for p in result.parameters())
    with pytest.raises(graphc.GraphError, match="matches nothing") as error:
        tuned(program, {"type": "freeze", "targets": ["frist"]})
    assert "first" in error.value.hint
    with pytest.raises(graphc.GraphError, match="no loss depends on a parameter that is trained"):
        tuned(program, {"type": "freeze", "targets": ["re:."]})


def test_the_best_weights_are_only_those_of_the_final_sparsity() -> None:
    """An evaluation before the sparsity has come does not count, however good."""
    done = graphc.compile(
        classifier(),
        passes=[
            Finetune(
                steps=16,
                learning_rate=0.02,
                evaluate_every=2,
                during=[{"type": "gradual-sparsity", "sparsity": 0.9, "end": 0.75, "frequency": 1}],
            )
        ],
        data={"train": train_batches, "eval": eval_batches},
        metric="accuracy",
    )
    rows = done.report["passes"][0]["facts"]["training"]["evaluations"]
    late = [row["metric"] for row in rows if row["step"] >= 12]
    assert done.report["after"]["metric"] == max(late)
    assert share(done.program) == pytest.approx(0.9, abs=0.01)


def test_masks_survive_pruning_distillation_and_emission(tmp_path: Path) -> None:
    data = {"train": [(models.image(6), torch.arange(6) % 5)]}
    passes = [
        Sparsify(sparsity=0.6, scope="tensor"),
        PruneFilters(pruning_ratio=0.25),
        Distill(steps=3, learning_rate=0.01),
        Finetune(steps=3, learning_rate=0.01),
    ]
    done = graphc.compile(models.residual(), passes=passes, data=data, emit=["net.pt2"], output_dir=tmp_path)
    assert find_masks(done.program)
    written = graphc.load(tmp_path / "net.pt2")
    assert not find_masks(written)
    for name in (mask.weight for mask in find_masks(done.program)):
        zeros = done.program.tensors()[name] == 0
        assert float(zeros.float().mean()) > 0.4
        assert torch.equal(written.tensors()[name] == 0, zeros)


def test_a_training_stage_between_the_steps_of_a_prune_pass(tmp_path: Path) -> None:
    tune = {"type": "finetune", "steps": 2}
    prune = PruneFilters(pruning_ratio=0.5, iterative_steps=2, between=[tune])
    data = {"train": [(models.image(6), torch.arange(6) % 5)]}
    done = graphc.compile(models.residual(), passes=[prune], data=data, output_dir=tmp_path)
    assert done.report["after"]["params"] < done.report["before"]["params"]
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.safetensors"))
    assert found == [f"prune-filters-{n}/training/finetune.safetensors" for n in (1, 2)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "gradual-sparsity", "sparsity": 0.5, "begin": 0.8}, "must end later"),
        ({"type": "gradual-sparsity", "sparsity": 0.5, "initial_sparsity": 0.6}, "must end later"),
        ({"type": "gradual-sparsity"}, "needs the option 'sparsity'"),
        ({"type": "gradual-sparsity", "sparsity": 1.5}, "cannot be 1.5"),
        ({"type": "gradualsparsity", "sparsity": 0.5}, "no hook is called"),
        ({"type": "tests.models:Residual"}, "is no hook"),
    ],
)
def test_wrong_hooks_are_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        make_hook(spec, "during[0]")


def test_the_paper_s_formula() -> None:
    hook = GradualSparsity(sparsity=0.875, begin=0.1, end=0.6)
    assert hook.wanted(9, 100) == 0
    assert hook.wanted(35, 100) == pytest.approx(0.875 * (1 - 0.5**3))
    assert hook.wanted(60, 100) == hook.wanted(100, 100) == 0.875
