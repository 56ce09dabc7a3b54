"""finetune: it trains as a loop written by hand does, keeps what it must, and refuses what cannot be."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import Finetune, Sparsify
from graphc.passes.training.recompute import recomputed
from graphc.passes.training.taps import find_tap
from torch import nn

import graphc
from graphc.ir.edit import rebuild
from graphc.ir.masks import find_masks
from graphc.ir.taps import tapped
from tests.models import image, residual, seeded, tiny_bert, tokens, transformer
from tests.passes.training.tasks import Classifier, classifier, eval_batches, samples, some_batches, train_batches

pytest.importorskip("accelerate", reason="training needs the extra `train`")


def tuned(program: graphc.Program, **options: Any) -> graphc.Program:
    data = options.pop("data", {"train": train_batches, "eval": eval_batches})
    metric = options.pop("metric", None)
    return graphc.compile(program, passes=[Finetune(**options)], data=data, metric=metric).program


def by_hand(steps: int, accumulate: int = 1) -> dict[str, torch.Tensor]:
    """The same training, by torch alone: AdamW, linear schedule with warm-up, clipping."""
    torch.manual_seed(0)
    model = Classifier().train()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=0.01,
    )
    torch.manual_seed(7919)
    batches = list(train_batches())
    for step in range(steps):
        rate = (step + 1) / 3 if step < 2 else 1 - (step - 2) / (steps - 2)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * rate
        for x, y in batches[step * accumulate : (step + 1) * accumulate]:
            (nn.functional.cross_entropy(model(x), y) / accumulate).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.eval().state_dict())


@pytest.mark.parametrize(("steps", "accumulate"), [(8, 1), (4, 2)])
def test_it_trains_as_a_loop_by_hand(steps: int, accumulate: int) -> None:
    program = classifier()
    before = {name: value.clone() for name, value in program.tensors().items()}
    result = tuned(
        program,
        steps=steps,
        learning_rate=0.01,
        weight_decay=0.1,
        schedule="linear",
        warmup=2,
        max_grad_norm=0.5,
        accumulate=accumulate,
        log=None,
    )
    expected = by_hand(steps, accumulate)
    for name, value in result.tensors().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    for name, value in program.tensors().items():
        assert torch.equal(value, before[name]), "the given program was changed"
    assert not result.module.training


def test_two_runs_are_bit_the_same() -> None:
    first, second = (tuned(classifier(dropout=0.3), epochs=2) for _ in range(2))
    for name, value in first.tensors().items():
        assert torch.equal(value, second.tensors()[name])


def test_an_accumulated_step_weighs_every_label_alike() -> None:
    """Two batches with different numbers of labels that count make the step that one batch of both makes."""
    ids = tokens(4, 11)
    labels = ids.clone()
    labels[0] = -100
    labels[1, 3:] = -100
    halves = [(ids[:2], labels[:2]), (ids[2:], labels[2:])]
    options: dict[str, Any] = {
        "steps": 1,
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "schedule": "constant",
        "log": None,
    }
    apart = tuned(transformer(), data={"train": halves}, accumulate=2, **options)
    together = tuned(transformer(), data={"train": [(ids, labels)]}, **options)
    moved = transformer().tensors()
    for name, value in together.tensors().items():
        torch.testing.assert_close(apart.tensors()[name], value, rtol=1e-5, atol=1e-6)
        assert "positions" in name or not torch.equal(value, moved[name])


def test_masks_and_ties_stay() -> None:
    ids = tokens(4, 11)
    program = graphc.compile(
        transformer(tied=True),
        passes=[Sparsify(sparsity=0.5), Finetune(epochs=3, log=None, learning_rate=0.01)],
        data={"train": [(ids, ids)]},
    ).program
    masks = find_masks(program)
    assert masks
    tensors = program.tensors()
    for mask in masks:
        zeros = tensors[mask.mask] == 0
        assert zeros.float().mean() == pytest.approx(0.5, abs=0.01)
        assert not tensors[mask.weight][zeros].any()
    assert program.aliases == {"head.weight": "tokens.weight"} or program.aliases == {"tokens.weight": "head.weight"}


def test_what_no_loss_depends_on_is_left_alone_and_said() -> None:
    model, inputs = tiny_bert()
    program = graphc.capture(model.bert, (), inputs)  # its first output is not the pooled one
    target = torch.randn(3, 11, 32)
    done = graphc.compile(
        program,
        passes=[Finetune(steps=2, losses=[{"type": "mse"}])],
        data={"train": [(tuple(inputs.values()), target)]},
    )
    told = done.report["passes"][0]["facts"]["training"]
    assert set(told["not_trained"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert torch.equal(done.program.tensors()["pooler.dense.weight"], program.tensors()["pooler.dense.weight"])


def test_the_best_weights_are_kept_and_training_stops_when_nothing_improves() -> None:
    done = graphc.compile(
        classifier(),
        passes=[Finetune(epochs=30, learning_rate=0.03, patience=3)],
        data={"train": train_batches, "eval": eval_batches},
        metric="accuracy",
    )
    facts = done.report["passes"][0]["facts"]
    values = [row["metric"] for row in facts["training"]["evaluations"]]
    assert facts["metric"] == max(values) > 0.9
    assert len(values) < 31
    assert values.index(max(values)) == len(values) - 4
    assert done.report["after"]["metric"] == max(values)
    assert done.report["metric"]["retained"] == pytest.approx(max(values) / done.report["before"]["metric"])


def test_max_drop_fails_the_compile_with_the_figures() -> None:
    wrong = [(x, (y + 1) % 3) for x, y in train_batches()]
    good = tuned(classifier(), epochs=20, learning_rate=0.03)
    for limit in (0.1, "10%"):
        with pytest.raises(graphc.GraphError, match=r"accuracy fell by 0\.\d+, more than the 0\.\d+") as error:
            graphc.compile(
                good,
                passes=[Finetune(epochs=5, learning_rate=0.03, keep="last", max_drop=limit)],
                data={"train": wrong, "eval": eval_batches},
                metric="accuracy",
            )
        assert "for the original" in error.value.why


def test_checkpointed_layers_keep_less_and_give_the_same_gradients() -> None:
    """BERT's layers keep only what enters them; the values that a tap reads are still there."""
    model, inputs = tiny_bert()
    program = graphc.set_training(graphc.capture(model, (), inputs), False)
    node = find_tap(program, "bert.encoder.layer.0").name
    kept: dict[bool, int] = {}
    gradients: dict[bool, list[torch.Tensor]] = {}
    for checkpointed in (False, True):
        module = tapped(program, [node])
        module = recomputed(module, program) if checkpointed else module
        count: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, c=count: (c.append(t.numel()), t)[1], lambda t: t):
            outputs, (hidden,) = module(**inputs)
            value = outputs.logits.square().sum() + hidden.sum()
        gradients[checkpointed] = list(torch.autograd.grad(value, list(program.parameters())))
        kept[checkpointed] = sum(count)
    assert kept[True] < kept[False] / 2
    for plain, again in zip(gradients[False], gradients[True], strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize("option", [{"precision": "bfloat16"}, {"gradient_checkpointing": True}])
def test_other_ways_to_compute_give_nearly_the_same(option: dict[str, Any]) -> None:
    data = {"train": [(image(), torch.tensor([0, 1, 2, 3]))]}
    program = graphc.set_training(residual(), False)
    plain = tuned(program, steps=3, data=data, learning_rate=1e-3)
    other = tuned(program, steps=3, data=data, learning_rate=1e-3, **option)
    x = image()
    error = (other(x) - plain(x)).norm() / plain(x).norm()
    assert 0 < error < 0.05 if "precision" in option else error < 1e-5
    assert (program(x) - plain(x)).norm() > 1e-3


def test_the_learning_rate_goes_up_and_down_and_every_step_is_logged(tmp_path: Path) -> None:
    graphc.compile(
        classifier(),
        passes=[Finetune(epochs=2, warmup=0.25, name="tune")],
        data={"train": train_batches},
        output_dir=tmp_path,
    )
    rows = list(csv.DictReader((tmp_path / "training" / "tune.csv").read_text(encoding="utf-8").splitlines()))
    rates = [float(row["learning_rate"]) for row in rows]
    assert [int(row["step"]) for row in rows] == list(range(1, 17))
    assert rates.index(max(rates)) == 4
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 11 / 12)) / 2)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    graphc.compile(
        classifier(), passes=[Finetune(steps=2, log="tensorboard")], data={"train": train_batches}, output_dir=tmp_path
    )
    assert list((tmp_path / "training" / "finetune").glob("events.*"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    x, y = samples(32)
    bad = [*zip(x.split(8), y.split(8), strict=True)]
    bad[2] = (bad[2][0] * float("nan"), bad[2][1])
    with pytest.raises(graphc.GraphError, match="not finite at step 3 of 4") as error:
        graphc.compile(
            classifier(),
            passes=[Finetune(epochs=1, checkpoint_every=1)],
            data={"train": bad},
            output_dir=tmp_path,
        )
    assert (tmp_path / "training" / "finetune.safetensors").exists()
    assert "last good checkpoint" in error.value.hint
    assert "cross-entropy nan" in error.value.why


def test_a_generator_is_made_anew_for_each_epoch() -> None:
    tuned(classifier(), epochs=2, data={"train": some_batches})
    with pytest.raises(graphc.GraphError, match="the data is empty") as error:
        tuned(classifier(), epochs=2, data={"train": some_batches()})
    assert "function that makes one" in error.value.hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of epochs and steps"),
        ({"epochs": 1, "steps": 2}, "exactly one of epochs and steps"),
        ({"epochs": 1, "optimizer": "adamm"}, "no optimizer is called 'adamm'"),
        ({"epochs": 1, "optimizer_options": {"momentun": 0.9}, "optimizer": "sgd"}, "no option 'momentun'"),
        ({"epochs": 1, "optimizer_options": {"lr": 0.9}}, "lr is no option of the optimizer in a recipe"),
        ({"epochs": 1, "learning_rate": 1e45}, "learning_rate"),
        ({"epochs": 1, "optimizer": "sparseadam"}, "no optimizer is called 'sparseadam'"),
        ({"epochs": 1, "schedule": "cos"}, "no schedule is called 'cos'"),
        ({"epochs": 1, "losses": [{"type": "kl"}]}, "needs a teacher"),
        ({"epochs": 1, "losses": [{"type": "cross_entropy"}]}, "no loss is called"),
        ({"epochs": 1, "during": [{"type": "freze"}]}, "no hook is called 'freze'"),
        ({"epochs": 1, "max_drop": "little"}, "max_drop cannot be 'little'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        Finetune(**options)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"train": [samples(8)[0]]}, "needs labels"),
        ({"train": []}, "the data is empty"),
        ({"train": [(torch.randn(4, 5), torch.zeros(4))]}, "does not fit the input"),
        ({}, "needs data called 'train'"),
    ],
)
def test_wrong_data_is_refused_before_training(data: dict[str, Any], words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        tuned(classifier(), epochs=1, data=data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "muon"}, "the optimizer muon cannot be made"),
        ({"optimizer": "sgd", "optimizer_options": {"momentum": -1}}, "the optimizer sgd cannot be made"),
    ],
)
def test_what_torch_refuses_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(graphc.GraphError, match=words):
        tuned(classifier(), steps=1, **options)


def test_weights_that_are_no_numbers_any_more_are_refused() -> None:
    before = classifier()
    weight = torch.nn.Parameter(before.tensors()["first.weight"] * torch.inf)
    with pytest.raises(graphc.GraphError, match=r"first.weight is not finite after training"):
        Finetune(steps=1).ensures(before, rebuild(before, tensors={"first.weight": weight}))


def test_labels_of_no_class_are_refused() -> None:
    x, y = samples(16)
    with pytest.raises(graphc.GraphError, match="a label is"):
        tuned(classifier(), epochs=1, data={"train": [(x, y + 100)]})


def test_labels_by_name() -> None:
    x, y = samples(16)
    named = [{"x": x, "classes": y}]
    tuned(classifier(), epochs=1, data={"train": named}, labels="classes")
    with pytest.raises(graphc.GraphError, match="no labels called 'class'"):
        tuned(classifier(), epochs=1, data={"train": named}, labels="class")


@pytest.mark.parametrize("option", [{"max_drop": 0.1}, {"patience": 3}])
def test_what_looks_at_a_metric_needs_one(option: dict[str, Any]) -> None:
    with pytest.raises(graphc.GraphError, match=f"{next(iter(option))} needs a metric"):
        tuned(classifier(), epochs=1, **option)


def test_data_sets_without_a_length_are_counted() -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return zip(*samples(40), strict=True)

    loader = torch.utils.data.DataLoader(Stream(), 8)
    done = graphc.compile(classifier(), passes=[Finetune(epochs=2)], data={"train": loader})
    assert done.report["passes"][0]["facts"]["training"]["steps"] == 10


def test_it_trains_what_another_pass_left_in_training_shape() -> None:
    """The result can be trained again, and emitted."""
    once = tuned(seeded_program(), epochs=1)
    again = tuned(once, epochs=1)
    assert not torch.equal(again.tensors()["first.weight"], once.tensors()["first.weight"])


def seeded_program() -> graphc.Program:
    return graphc.capture(seeded(Classifier), (torch.randn(4, 6),))
