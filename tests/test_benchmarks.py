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

from benchmarks import analysis, budgets, detection, growth, models, soundness, tables, training_overhead, writeback
from benchmarks.peers import pruning, pruning_speed
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
