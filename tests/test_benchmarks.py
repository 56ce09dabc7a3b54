"""A small slice of each benchmark, so that none can rot."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from graphc.passes.losses import LOSSES
from rich.console import Console

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
pytest.importorskip("torchvision", reason="pip install 'graphc[vision]'")

import graphc
from benchmarks import analysis, budgets, detection, growth, models, soundness, tables, training_overhead, writeback
from benchmarks.peers import int8, int8_measure, int8_models, int8_tools, pruning, pruning_speed
from benchmarks.quality import fashion, fashion_mnist, fashion_mnist_distill, study


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x1_0"])
def test_soundness_of_vision_models(name: str) -> None:
    result = soundness.prove(models.vision(name))
    assert soundness.good(result), result
    assert result.axes > 20


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", models.TEXT)
def test_soundness_of_transformers(name: str, attention: str) -> None:
    result = soundness.prove(models.transformer(name, attention))
    assert soundness.good(result), result


def test_analysis_of_a_model_without_memory() -> None:
    name, nodes, axes, *_ = analysis.measure(analysis.large_llama(layers=2), repeat=1)
    assert name == "llama 70B shape"
    assert int(nodes) > 100
    assert int(axes) >= 2 * 4


def test_detection_with_a_part_of_a_detector() -> None:
    result = detection.prove(
        "fasterrcnn_mobilenet_v3_large_320_fpn", only=["rpn.head", "roi_heads.box_head"], quick=True
    )
    assert detection.good(result), result
    assert result.axes == 2


def test_growth_of_the_analysis() -> None:
    found = growth.measure(1, repeat=1)
    assert found.layers == 1
    assert found.axes > 4
    assert found.seconds > 0


@pytest.mark.parametrize(("seconds", "holds"), [(0.2, True), (0.26, False)])
def test_growth_is_held_to_its_limits(seconds: float, holds: bool) -> None:
    said = growth.limits([growth.Growth(80, 5000, 300, 0.1), growth.Growth(160, 10000, 600, seconds)])
    assert all(said.values()) is holds


def test_graphc_prunes_a_classifier() -> None:
    found = pruning.prune("squeezenet1_1", "graphc", 64, lambda _: None)
    assert found.done, found
    assert list(found.seconds) == ["capture", "analyse", "choose", "slice"]
    assert found.params[1] < 0.4 * found.params[0]
    assert found.macs[1] < 0.4 * found.macs[0]


def test_torch_pruning_prunes_a_classifier() -> None:
    pytest.importorskip("torch_pruning", reason="pip install 'graphc[bench]'")
    options = Namespace(pixels=64, memory=8, limit=120)
    found = pruning_speed.run_apart("squeezenet1_1", "torch-pruning", options)
    assert found.done, found
    assert list(found.seconds) == ["build", "prune"]
    assert found.params[1] < 0.4 * found.params[0]


def pair(peer: float, own: float, failed: str = "") -> pruning_speed.Pair:
    told = {"params": (100, 25), "macs": (1000, 250), "grown": 2**24}
    stages = {"capture": 0.1, "analyse": own / 2, "choose": 0.0, "slice": own / 2}
    stage, seconds = "prune" if failed else "done", {"build": peer, "prune": 0.0}
    other = pruning.Pruned("net", "torch-pruning", stage, failed, seconds, **told)
    return pruning_speed.Pair(other, pruning.Pruned("net", "graphc", "done", "", stages, **told))


def test_claims_are_held_against_the_models_that_both_can_do(tmp_path: Path) -> None:
    pairs = [pair(1.0, 0.1), pair(4.0, 0.1), pair(9.0, 0.1, failed="ValueError: no")]
    said = pruning_speed.claims(pairs)
    assert [line.split(": ")[1].split()[0] for line in said] == ["20.0", "12.50", "the"]
    assert list(said.values()) == [True, True, False]
    notes = pruning_speed.notes(pairs)
    assert notes[0] == "torch-pruning: 2 of 3 models"
    assert notes[-1] == "torch-pruning, net: ValueError: no (prune)"
    tables.write("speed", pruning_speed.COLUMNS, list(map(pruning_speed.row, pairs)), notes, tmp_path)
    assert "| net | 1.000 | 0.000 | 16 | 25.0% | 25.0% | 0.100 |" in (tmp_path / "speed.md").read_text()


def test_writing_back_a_classifier() -> None:
    (found,) = writeback.prove("mobilenet_v2", "filters")
    assert writeback.good(found), found
    assert found.params[1] < 0.4 * found.params[0]
    assert not writeback.good(replace(found, errors=(0.0, 1e-4)))


def test_equal_scores_may_come_in_any_order() -> None:
    scores, boxes = torch.tensor([0.9, 0.5, 0.5, 0.2, 0.2]), torch.arange(20.0).view(5, 4)
    other = boxes[[0, 2, 1, 4, 3]] + torch.tensor([0.0, 0, 0, 9, 9])[:, None]
    one, same = {"scores": scores, "boxes": boxes}, {"scores": scores, "boxes": other}
    assert detection.gap([[one]], [[same]]) == 0
    moved = {"scores": scores, "boxes": boxes + torch.tensor([0.0, 1, 0, 0, 0])[:, None]}
    assert detection.gap([[one]], [[moved]]) > 0.01
    assert detection.gap([[one]], [[{key: value[:4] for key, value in one.items()}]]) == float("inf")


@pytest.mark.parametrize(("tool", "importance"), [("graphc", "taylor"), ("torch-pruning", "l1")])
def test_a_cell_of_fashion_mnist(tool: str, importance: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = fashion.ResNet(8).eval()
    images = torch.randn(128, 1, 28, 28), torch.randint(0, 10, (128,))
    cell = fashion_mnist.Cell(tool, importance, 0.5, 0)
    setting = fashion_mnist.Setting(tmp_path / "t.pt", tmp_path, 128, 1)
    found = fashion_mnist.outcome(cell, model, images, images, images, setting)
    assert 0.4 < found.macs <= 0.5
    assert found.params < 1
    assert 0 <= found.tuned <= 1


def test_the_best_of_each_tool_are_compared() -> None:
    def found(own: float) -> dict[fashion_mnist.Cell, fashion_mnist.Outcome]:
        return {
            fashion_mnist.Cell(tool, name, share, seed): fashion_mnist.Outcome(share, share, 0.1, tuned + 0.001 * seed)
            for share in fashion_mnist.SHARES
            for seed in (0, 1)
            for tool, name, tuned in (("graphc", "l1", 0.5), ("graphc", "gate", own), ("torch-pruning", "l1", 0.8))
        }

    assert all(fashion_mnist.claims(found(0.8)).values())
    assert not any(fashion_mnist.claims(found(0.79)).values())
    assert [row[1] for row in fashion_mnist.rows(found(0.9))[:3]] == ["gate", "l1", "l1"]


@pytest.mark.parametrize("training", ["finetune", "rkd", "kl + hint", "attention-transfer"])
def test_distillation_on_fashion_mnist(training: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    torch.manual_seed(0)
    model = fashion.ResNet(8).eval()
    images = torch.randn(128, 1, 28, 28), torch.randint(0, 10, (128,))
    cell = fashion_mnist_distill.Cell(training, 128, 1, 0)
    found = fashion_mnist_distill.outcome(
        cell, model, images, images, fashion_mnist_distill.Setting(tmp_path, tmp_path)
    )
    assert 0.15 < found.macs <= 0.25
    assert found.params < 0.5
    assert 0 <= found.accuracy <= 1


def test_each_loss_of_classifiers_has_a_row() -> None:
    cells = [fashion_mnist_distill.Cell(name, 128, 1, 0) for name in fashion_mnist_distill.ROWS]
    used = {loss.type for cell in cells for loss in fashion_mnist_distill.training(cell, 0.02).terms()}
    own = {name for name, kind in LOSSES.items() if kind.__module__.startswith("graphc.passes.")}
    assert used == own - {"mse", "token-kl", "attention-relation"}


def test_the_long_training_decides_about_distillation() -> None:
    def found(kl: float) -> dict[fashion_mnist_distill.Cell, fashion_mnist_distill.Outcome]:
        return {
            fashion_mnist_distill.Cell(name, images, 1, seed): fashion_mnist_distill.Outcome(0.25, 0.25, share, 1.0)
            for images, others in ((256, 0.8), (128, 0.99))
            for seed in (0, 1)
            for name, share in (("finetune", others), ("kl", kl if images == 256 else 0.1))
        }

    def held(kl: float) -> list[bool]:
        return list(fashion_mnist_distill.claims(found(kl), (256, 1), 0.85).values())

    assert [held(kl) for kl in (0.845, 0.81, 0.79)] == [[True, True], [True, False], [False, False]]
    rows = fashion_mnist_distill.rows(found(0.845), 0.85)
    assert [row[0] for row in rows] == ["kl", "finetune", "finetune", "kl"]
    assert rows[0][1:] == [
        "0.9 kl (temperature 2.0) + 0.1 cross-entropy", "256", "1", "84.50%", "0.00%", "0.50", "1",
    ]  # fmt: skip


def test_cells_that_are_done_are_not_run_again(tmp_path: Path) -> None:
    cells = [fashion_mnist.Cell("graphc", name, 0.5, 0) for name in ("l1", "l2")]
    known, file = replace(cells[0], seed=7), tmp_path / "cells.jsonl"
    file.write_text(json.dumps([asdict(cells[0]), asdict(known)]) + "\n")
    kinds = (fashion_mnist.Cell, fashion_mnist.Cell)
    found = study.outcomes(cells, copy.copy, kinds, file, 1, Console(quiet=True))
    assert found == {cells[0]: known, cells[1]: cells[1]}
    assert len(file.read_text().splitlines()) == 2


def test_budgets_on_a_real_network() -> None:
    draw = budgets.Draw("mobilenet_v3_small", (("macs", 50),), "global", "l1", 4)
    found = budgets.prove(draw)
    assert budgets.good(draw, found), found
    assert found.gap < 1
    assert not budgets.good(draw, replace(found, gap=-0.1, reached={"macs": 50.1}))
    assert not budgets.good(draw, replace(found, gap=5.0))
    assert budgets.draws(20) == budgets.draws(20)


def test_what_training_costs() -> None:
    first, second, ratio = training_overhead.ratio(*training_overhead.pair(*training_overhead.bert(2, 8, 32)), steps=2)
    assert min(first, second, ratio) > 0
    filled, read = training_overhead.epochs(8, 32, batch=4)
    assert min(filled, read) > 0


def digits(kind: str = "cnn") -> int8_models.Subject:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 10)
    )
    samples = [{"input": torch.rand(1, 3, 8, 8)} for _ in range(15)]
    program = graphc.capture(net.eval(), (torch.rand(4, 3, 8, 8),))
    return int8_models.Subject("mobilenet_v2", kind, program, samples[:5], samples[5:], samples[:2], samples[0])


def only(tool: str, name: str) -> list[int8_tools.Mode]:
    return [mode for mode in int8_tools.modes("cnn", [tool]) if mode.name == name]


def test_int8_of_graphc_beside_onnxruntime(tmp_path: Path) -> None:
    broken = int8_tools.Mode("nncf", "broken", lambda job, path: path.unlink())
    wanted = [*only("graphc", "W8A8"), *only("onnxruntime", "u8s8"), broken]
    rows = int8_measure.measure(digits(), wanted, tmp_path, repeat=3)
    assert [row.tool for row in rows] == ["float32", "graphc", "onnxruntime", "nncf"]
    assert rows[0].of_float[0] == 1
    assert rows[0].sqnr > 200
    for row in rows[1:3]:
        assert not row.failed, row
        assert 25 < row.sqnr < 60
        assert row.cosine > 0.99
        assert row.photographs[1] == 4
    assert rows[1].of_own[0] == 1
    assert "FileNotFoundError" in rows[3].failed
    assert set(int8.contests(rows)) == {"mobilenet_v2"}


def test_int8_of_nncf(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="pip install nncf==3.4.0")
    (_, row) = int8_measure.measure(digits(), only("nncf", "per tensor"), tmp_path, repeat=1)
    assert not row.failed, row
    assert row.sqnr > 25


def test_fidelity_of_known_outputs() -> None:
    wanted = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found = int8_measure.fidelity(wanted, wanted + torch.tensor([[0.0, 0.0], [0.0, 0.51**0.5]]))
    assert found["sqnr"] == pytest.approx(10 * torch.tensor(26 / 0.51).log10().item(), abs=1e-4)
    assert found["least_cosine"] == pytest.approx(1)
    assert int8_measure.same_class(wanted, torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == 1


def contest(own: float, *peers: tuple[float, float], model: str = "mobilenet_v2") -> list[int8.Row]:
    """graphc with 20 dB and ``own`` of the time of float32; peers with a time and an SQNR."""
    first = int8.Row(model, "graphc", "W8A8", ms=1, of_float=(own,) * 3, of_own=(1.0,) * 3, sqnr=20, cosine=0.99)
    return [first, *(
        int8.Row(model, "onnxruntime", f"{at}", of_float=(time,) * 3, of_own=(time / own,) * 3, sqnr=sqnr)
        for at, (time, sqnr) in enumerate(peers)
    )]  # fmt: skip


def test_the_fastest_peer_that_keeps_accuracy_is_raced() -> None:
    rows = contest(0.5, (0.4, 13.9), (0.55, 14.0), (0.9, 20.0))
    one = int8.contests(rows)["mobilenet_v2"]
    assert (one.fast.mode, one.near.mode) == ("1", "2")
    assert one.slower == pytest.approx(1 / 1.1)
    assert all(int8.claims(rows).values())


@pytest.mark.parametrize(
    ("rows", "held"),
    [
        (contest(0.5, (0.49, 10.0)), [False, True, True, True]),
        (contest(0.5, (0.45, 10.0)), [False, False, True, True]),
        (contest(0.8, (0.9, 21.0)), [True, True, False, False]),
        (contest(0.5, (0.6, 10.0), model="minilm"), [True, True, True, False]),
        ([replace(contest(0.5)[0], failed="no"), *contest(0.5, (0.6, 10.0))[1:]], [False]),
    ],
)
def test_claims_about_int8(rows: list[int8.Row], held: list[bool]) -> None:
    assert list(int8.claims(rows).values()) == held
    assert all(len(int8.cells(row)) == len(int8.COLUMNS) for row in rows)


def test_an_untrained_classifier_tells_images_apart() -> None:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 64)
    model = int8_models.settle(mobilenet_v2(width_mult=0.35, num_classes=20), images)
    with torch.no_grad():
        logits = model(images)
    assert not model.training
    assert float(logits.mean(0).abs().max()) < 1e-4 * float(logits.std())
    assert len(set(logits.argmax(1).tolist())) > 4


def test_photographs_and_texts_judge_that_do_not_calibrate() -> None:
    pytest.importorskip("skimage", reason="pip install scikit-image==0.26.0")
    crops = int8_models.middle_and_corners(int8_models.photograph("chelsea"), 32)
    assert [tuple(crop.shape) for crop in crops] == [(3, 32, 32)] * 5
    assert -1 <= min(float(crop.min()) for crop in crops) < max(float(crop.max()) for crop in crops) <= 1
    assert not set(int8_models.CALIBRATING) & set(int8_models.JUDGING)
    assert len(set(int8_models.texts(None))) == 100
