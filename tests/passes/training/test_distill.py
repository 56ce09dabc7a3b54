"""distill: every loss on a convolutional net, an encoder and a decoder; teachers, pairs, projections, refusals."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import Distill, Finetune, PruneFilters, PruneLayers, PruneWidth
from torch import nn

import graphc
from tests import models
from tests.passes.training.tasks import classifier, eval_batches, samples, train_batches

pytest.importorskip("accelerate", reason="training needs the extra `train`")

HERE = "tests.passes.training.test_distill"
OUTPUTS: list[dict[str, Any]] = [
    {"type": "kl", "temperature": 2.0},
    {"type": "logits-mse"},
    {"type": "cross-entropy"},
]
TOKENS: list[dict[str, Any]] = [{"type": "token-kl", "divergence": kind} for kind in ("forward", "reverse", "js")]
FEATURES: list[dict[str, Any]] = [
    {"type": kind} for kind in ("hint", "cosine", "rkd-distance", "rkd-angle", "similarity", "attention-transfer")
]
ATTENTION: list[dict[str, Any]] = [
    {"type": "attention-relation"},
    {"type": "attention-relation", "relations": ("qq", "kk", "vv"), "relation_heads": 2},
]


def falls(
    program: graphc.Program, losses: list[dict[str, Any]], data: Any, prune: list[Any], folder: Path
) -> list[float]:
    """Prune, distill for some steps; the loss of each."""
    kl = [] if any(loss["type"] != "cross-entropy" for loss in losses) else [{"type": "kl"}]
    stage = Distill(steps=12, learning_rate=0.003, schedule="constant", losses=[*losses, *kl])
    graphc.compile(program, passes=[*prune, stage], data={"train": data}, output_dir=folder)
    rows = csv.DictReader((folder / "training" / "distill.csv").read_text(encoding="utf-8").splitlines())
    return [float(row["loss"]) for row in rows if row["loss"]]


def cases(kinds: list[tuple[str, list[dict[str, Any]]]]) -> list[Any]:
    return [
        pytest.param(net, loss, id=f"{net}-{loss['type']}-{i}") for net, all_ in kinds for i, loss in enumerate(all_)
    ]


@pytest.mark.parametrize(
    ("net", "loss"),
    cases(
        [
            ("cnn", [*OUTPUTS, {"type": "dkd"}, *FEATURES]),
            ("encoder", [*OUTPUTS, {"type": "dkd"}, *FEATURES, *ATTENTION]),
            ("decoder", [*OUTPUTS, *TOKENS, *FEATURES, *ATTENTION]),
        ]
    ),
)
def test_every_loss_falls_on_a_pruned_student(net: str, loss: dict[str, Any], tmp_path: Path) -> None:
    program, data, prune, place = {"cnn": cnn, "encoder": encoder, "decoder": decoder}[net]()
    if loss in FEATURES:
        loss = {**loss, "student": place}
    if loss in ATTENTION:
        loss = {**loss, "pairs": "last"}
    found = falls(program, [loss], data, prune, tmp_path)
    assert 0 < sum(found[-3:]) < sum(found[:3])


def cnn() -> tuple[graphc.Program, Any, list[Any], str]:
    return models.residual(), [(models.image(6), torch.arange(6) % 5)], [PruneFilters(pruning_ratio=0.5)], "conv1"


def encoder() -> tuple[graphc.Program, Any, list[Any], str]:
    model, inputs = models.tiny_bert()
    mask = inputs["attention_mask"].clone()
    mask[0, 7:] = 0
    batch = {**inputs, "attention_mask": mask, "labels": torch.tensor([0, 4, 2])}
    prune = [PruneWidth(pruning_ratio=0.5), PruneLayers(layers=[0])]
    return graphc.capture(model, (), inputs), [batch], prune, "bert.encoder.layer.1"


def decoder() -> tuple[graphc.Program, Any, list[Any], str]:
    model, inputs = models.tiny_llama()
    batch = {**inputs, "labels": inputs["input_ids"]}
    prune = [PruneWidth(pruning_ratio=0.5)]
    return graphc.capture(model, (), inputs), [batch], prune, "model.layers.1"


def test_kl_alone_needs_no_labels_and_brings_the_teacher_back() -> None:
    """A student that has lost its last layer learns it again from unlabelled data."""
    teacher = classifier()
    broken = {"last.weight": nn.Parameter(torch.zeros(3, 16)), "last.bias": nn.Parameter(torch.zeros(3))}
    student = graphc.ir.edit.rebuild(teacher, tensors=broken)
    x = samples(64)[0]
    data = {"train": [x[i : i + 16] for i in range(0, 64, 16)], "eval": [(x, teacher(x).argmax(1))]}
    target = {"target": "tests.passes.training.test_distill:teacher"}
    passes = [Distill(epochs=60, learning_rate=0.03, teacher=target, losses=[{"type": "kl", "temperature": 1.0}])]
    done = graphc.compile(student, passes=passes, data=data, metric="accuracy")
    assert done.report["after"]["metric"] > 0.9 > done.report["before"]["metric"]


def teacher() -> nn.Module:
    """What ``classifier`` captures."""
    from tests.passes.training.tasks import Classifier

    torch.manual_seed(0)
    return Classifier()


def test_an_earlier_pass_can_teach() -> None:
    data = {"train": train_batches, "eval": eval_batches}
    first = Finetune(epochs=10, learning_rate=0.03, name="grown")
    small = PruneWidth(pruning_ratio=0.5)

    def learn(who: str) -> Distill:
        return Distill(epochs=20, learning_rate=0.03, losses=[{"type": "kl"}], teacher=who, keep="last")

    by_original, by_grown = (
        graphc.compile(
            classifier(),
            passes=[first, small, learn(who)],
            data=data,
            metric="accuracy",
        ).report["after"]["metric"]
        for who in ("original", "grown")
    )
    assert by_grown > 0.85 > by_original
    with pytest.raises(graphc.GraphError, match="refers to 'grwn'") as error:
        graphc.compile(classifier(), passes=[first, Distill(epochs=1, teacher="grwn")], data=data)
    assert "did you mean 'grown'" in error.value.hint


def test_blocks_pair_and_projections_are_dropped() -> None:
    """A student of another width: each block is compared through a projection that is not in the result."""
    program, data, _, _ = encoder()
    prune = [PruneWidth(pruning_ratio=0.25, hidden=True)] if "hidden" in PruneWidth.__dataclass_fields__ else []
    stage = Distill(steps=2, losses=[{"type": "hint", "pairs": "auto"}])
    before = graphc.compile(program, passes=prune).program
    after = graphc.compile(program, passes=[*prune, stage], data={"train": data}).program
    assert before.tensors().keys() == after.tensors().keys()
    assert [(n, v.shape) for n, v in before.tensors().items()] == [(n, v.shape) for n, v in after.tensors().items()]


def test_a_step_of_two_batches_weighs_samples_or_tokens_as_each_loss_does() -> None:
    """kl on a classifier is over samples, cosine of tokens over those that are not padding; halves make the whole."""
    program, (batch,), _, place = encoder()
    student = graphc.mask(program, {axis.name: [0] for axis in graphc.find_axes(program) if axis.pinned is None})
    losses = [{"type": "kl"}, {"type": "cosine", "student": place}]
    options: dict[str, Any] = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant"}
    frozen = graphc.redirect(
        student, {n.name: n.args[0].name for n in student.graph.nodes if "dropout" in str(n.target)}
    )
    halves = [{key: value[part] for key, value in batch.items()} for part in ([0], [1, 2])]
    whole, apart = (
        graphc.compile(frozen, passes=[Distill(losses=losses, **options, **more)], data={"train": data}).program
        for data, more in (([batch], {}), (halves, {"accumulate": 2}))
    )
    for name, value in whole.tensors().items():
        torch.testing.assert_close(apart.tensors()[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.equal(whole.tensors()["classifier.weight"], frozen.tensors()["classifier.weight"])


def test_distilbert_s_triple_loss_is_a_preset() -> None:
    """Masked language modelling: cross-entropy of the masked tokens, the teacher's logits, the last hidden states."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=61, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=44)
    ids = models.tokens(3, 11, 61)
    program = graphc.capture(models.seeded(lambda: BertForMaskedLM(config)), (), {"input_ids": ids})
    labels = torch.where(torch.arange(11) % 4 == 0, ids, -100)
    passes = [PruneLayers(keep="every second"), Distill(steps=10, learning_rate=0.005, losses="distilbert")]
    found: list[float] = []
    done = graphc.compile(
        program,
        passes=passes,
        data={"train": [{"input_ids": ids, "labels": labels}]},
        watch=lambda event, about: found.append(loss_in(about[2])) if event == "progress" else None,
    )
    assert len(graphc.explain(done.program).layers) == 2
    assert found[-1] < found[0] * 0.8


def test_the_default_is_hinton() -> None:
    """Half of T^2 KL and half of the cross-entropy of the labels."""
    program = classifier()
    small = graphc.compile(program, passes=[PruneWidth(pruning_ratio=0.5)]).program
    x, y = samples(16)
    expected = graphc.set_training(small, True)(x).detach()
    found: list[float] = []
    graphc.compile(
        small,
        passes=[Distill(steps=1, teacher={"target": "tests.passes.training.test_distill:teacher"})],
        data={"train": [(x, y)]},
        watch=lambda event, about: found.append(loss_in(about[2])) if event == "progress" else None,
    )
    soft = (program(x).detach() / 4).softmax(1)
    kl = (soft * (soft.log() - (expected / 4).log_softmax(1))).sum(1).mean() * 16
    hard = -expected.log_softmax(1)[torch.arange(16), y].mean()
    assert found == [pytest.approx(float(kl + hard) / 2, abs=1e-4)]


def loss_in(text: str) -> float:
    return float(text.split("loss ")[1].split(",")[0])


@pytest.mark.parametrize(
    ("options", "words", "hint"),
    [
        ({"losses": [{"type": "hint", "student": "frist"}]}, "'frist'", "first"),
        ({"losses": [{"type": "hint", "student": "first", "teacher": "lst"}]}, "'lst'", "last"),
        ({"losses": "distillbert"}, "no preset of losses is called", "did you mean 'distilbert'"),
        ({"losses": [{"type": "hint"}]}, "needs to know where to look", "pairs: auto"),
        ({"losses": [{"type": "hint", "pairs": "auto"}]}, "no", ""),
        ({"losses": [{"type": "kl", "output": "logit"}]}, "no output is called 'logit'", ""),
        ({"losses": [{"type": "cross-entropy"}]}, "no loss looks at the teacher", "kl"),
        ({"losses": [{"type": "attention-relation", "pairs": "auto"}]}, "no attention", ""),
        ({"teacher": {"traget": "x:y"}}, "the teacher cannot be", "target"),
        (
            {"teacher": {"target": "tests.passes.training.test_distill:other_inputs"}},
            "the teacher",
            "inputs of the student",
        ),
        ({"teacher": {"target": "tests.passes.training.test_distill:other_outputs"}}, "cannot|do not|shape|differ", ""),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(options: dict[str, Any], words: str, hint: str) -> None:
    steps: list[str] = []
    with pytest.raises(graphc.GraphError, match=words) as error:
        graphc.compile(
            classifier(),
            passes=[Distill(epochs=1, **options)],
            data={"train": train_batches},
            watch=lambda event, about: steps.append(event),
        )
    assert hint in f"{error.value.hint} {error.value.why}"
    assert "progress" not in steps


def other_inputs() -> nn.Module:
    return nn.Linear(7, 3)


def other_outputs() -> nn.Module:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    return Wide()
