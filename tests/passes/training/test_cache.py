"""The teacher's cache: the same values, the teacher run once for each sample, nothing trusted that is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import Distill, PruneWidth
from graphc.passes.losses import make_loss
from graphc.passes.training.cache import Cache
from graphc.passes.training.teacher import Teacher
from graphc.passes.training.terms import find_terms

import graphc
from graphc.pipeline.batches import fed
from tests import models
from tests.passes.training.tasks import classifier, samples, train_batches

CPU = torch.device("cpu")


def teacher(program: graphc.Program, *losses: dict[str, Any]) -> Teacher:
    terms = find_terms([make_loss(loss, "losses") for loss in losses], program, program)
    return Teacher(program, terms, CPU)


def test_values_come_back_as_they_were_in_any_order(tmp_path: Path) -> None:
    model, inputs = models.tiny_bert()
    program = graphc.capture(model, (), inputs, dynamic={name: {0: "batch", 1: "tokens"} for name in inputs})
    losses = {"type": "attention-relation", "pairs": "auto"}, {"type": "kl"}, {"type": "hint", "pairs": "auto"}
    run = teacher(program, *losses)
    batches = [fed(program, {k: v[order] for k, v in inputs.items()}) for order in ([0, 1, 2], [2, 0], [1, 1, 0])]
    cache = Cache(run, tmp_path)
    for batch in batches:
        for own, other in zip(flat(cache(batch)), flat(run(batch)), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    assert (cache.misses, cache.hits) == (3, 5)
    again = Cache(run, tmp_path)
    flat(again(batches[1]))
    assert (again.misses, again.hits) == (0, 2)
    shorter = fed(program, {k: v[:, :7] for k, v in inputs.items()})
    assert flat(again(shorter))[-1].shape[1] == 7
    assert again.misses == 3


def flat(teachings: Any) -> list[torch.Tensor]:
    return [value for term in teachings for place in term for value in place]


def test_what_was_not_written_to_its_end_is_not_read(tmp_path: Path) -> None:
    program = classifier()
    run = teacher(program, {"type": "kl"})
    batch = fed(program, samples(8))
    Cache(run, tmp_path)(batch)
    values = next(tmp_path.glob("*/values.bin"))
    values.write_bytes(values.read_bytes()[:-5])
    keys = next(tmp_path.glob("*/keys.bin"))
    keys.write_bytes(keys.read_bytes() + b"half")
    broken = Cache(run, tmp_path)
    assert len(broken.known) == 7
    torch.testing.assert_close(flat(broken(batch))[0], program(*batch.args))


def test_another_teacher_has_a_cache_of_its_own(tmp_path: Path) -> None:
    batch = fed(classifier(), samples(8))
    first = Cache(teacher(classifier(), {"type": "kl"}), tmp_path)
    first(batch)
    other = graphc.mask(classifier(), {graphc.find_axes(classifier())[0].name: [0, 1]})
    assert Cache(teacher(other, {"type": "kl"}), tmp_path).known == {}
    assert len(Cache(teacher(classifier(), {"type": "kl"}), tmp_path).known) == 8


def test_training_is_the_same_with_a_cache(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="training needs the extra `train`")
    plain, cached = (
        graphc.compile(
            classifier(),
            passes=[PruneWidth(pruning_ratio=0.5), Distill(epochs=3, teacher_cache=cache, learning_rate=0.01)],
            data={"train": train_batches},
            output_dir=tmp_path,
        ).program
        for cache in (False, True)
    )
    for name, value in plain.tensors().items():
        torch.testing.assert_close(cached.tensors()[name], value, rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "training" / "distill.teacher-0").glob("*/keys.bin"))) == 1
