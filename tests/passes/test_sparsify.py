from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from graphc.passes import PruneFilters, PruneHeads, Sparsify
from graphc.passes.sparsify import zeros
from torch import nn
from torch.nn.utils import prune

import graphc
from graphc.errors import GraphError, RecipeError
from graphc.ir.masks import find_masks, make_permanent
from tests import models

HEADS = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")}


def residual() -> graphc.Program:
    torch.manual_seed(0)
    return graphc.capture(models.randomise(models.Residual(width=16)), (torch.randn(3, 3, 16, 16),))


def sparse(program: graphc.Program, data: Any = None, **options: Any) -> graphc.Program:
    done = graphc.compile(program, passes=[Sparsify(**options)], data={"calibration": data} if data else {})
    return done.program


def share(program: graphc.Program, name: str) -> float:
    count, entries = zeros(program, name)
    return count / entries


WEIGHTS = ["stem.weight", "conv1.weight", "conv2.weight", "head.weight"]


def test_each_tensor_gets_its_share_and_loses_its_smallest() -> None:
    program = residual()
    done = sparse(program, sparsity=0.75)
    for name in WEIGHTS:
        before, after = program.tensors()[name], done.tensors()[name]
        assert share(done, name) == pytest.approx(0.75, abs=0.01)
        assert before[after != 0].abs().min() >= before[after == 0].abs().max()
        assert torch.equal(before[after != 0], after[after != 0])
    assert [mask.weight for mask in find_masks(done)] == WEIGHTS


def test_all_tensors_together() -> None:
    program = residual()
    with torch.no_grad():
        program.tensors()["conv1.weight"].mul_(0.01)
    done = sparse(program, sparsity=0.5, scope="global")
    counts = [zeros(done, name) for name in WEIGHTS]
    assert sum(n for n, _ in counts) / sum(n for _, n in counts) == pytest.approx(0.5, abs=1e-3)
    assert share(done, "conv1.weight") > 0.6
    assert share(done, "stem.weight") < 0.02


@pytest.mark.parametrize(("structure", "n", "m"), [("2:4", 2, 4), ("1:4", 1, 4), ("4:8", 4, 8)])
def test_a_pattern_runs_along_the_inputs(structure: str, n: int, m: int) -> None:
    program = residual()
    report = graphc.compile(program, passes=[Sparsify(mask_structure=structure)])
    done = report.program
    for name in ("conv1.weight", "conv2.weight", "head.weight"):
        weight, before = done.tensors()[name], program.tensors()[name]
        groups, old = (t.detach().movedim(1, -1).reshape(-1, m) for t in (weight, before))
        assert int((groups != 0).sum(1).max()) == n
        assert torch.allclose(groups.abs().sum(1), old.abs().topk(n, 1).values.sum(1))
    assert share(done, "stem.weight") == 0
    facts = report.report["passes"][0]["facts"]
    assert "stem.weight has 3 inputs a unit" in " ".join(facts["says"])
    assert facts["sparsity"]["conv1.weight"] == pytest.approx(1 - n / m)


def test_wanda_is_weight_times_the_norm_of_its_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    data = [torch.randn(n, 6) * torch.tensor([9.0, 1, 1, 0.1, 1, 4]) for n in (5, 4)]
    program = graphc.capture(model, (torch.randn(3, 6),))
    done = sparse(program, data, sparsity=0.5, importance="wanda")
    x = torch.cat(data)
    inputs = [x, model[0](x).relu()]
    for layer, entering in zip((0, 2), inputs, strict=True):
        weight = model[layer].weight.detach()
        metric = weight.abs() * entering.detach().norm(dim=0)
        kept = done.tensors()[f"{layer}.weight"] != 0
        for row, scores in zip(kept, metric, strict=True):
            best = scores.topk(len(scores) - round(len(scores) * 0.5)).indices
            assert set(row.nonzero().flatten().tolist()) == set(best.tolist())
    plain = sparse(program, sparsity=0.5, scope="output")
    assert not torch.equal(plain.tensors()["0.weight"], done.tensors()["0.weight"])


def test_wanda_of_convolutions_and_groups() -> None:
    program = graphc.capture(models.Grouped(), (torch.randn(3, 3, 8, 8),))
    done = sparse(program, [torch.randn(2, 3, 8, 8)], sparsity=0.5, importance="wanda")
    assert share(done, "grouped.weight") == pytest.approx(0.5, abs=0.02)
    assert share(done, "up.weight") == pytest.approx(0.5, abs=0.02)


def test_random_is_the_same_for_a_seed() -> None:
    first, second = (sparse(residual(), sparsity=0.5, importance="random").tensors() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in WEIGHTS)


def test_masks_are_cut_with_their_weights() -> None:
    program = residual()
    passes = [Sparsify(sparsity=0.6), PruneFilters(pruning_ratio=0.5)]
    done = graphc.compile(program, passes=passes).program
    weight = done.tensors()["conv1.weight"]
    assert weight.shape == (16, 8, 3, 3)
    assert [mask.weight for mask in find_masks(done)] == WEIGHTS
    for mask in find_masks(done):
        tensors = done.tensors()
        assert torch.equal(tensors[mask.weight] != 0, tensors[mask.mask] != 0)
    sliced = done.tensors()["conv1.weight_mask"]
    before = sparse(program, sparsity=0.6)
    assert before.tensors()["conv1.weight_mask"].shape == (32, 16, 3, 3)
    assert sliced.shape == (16, 8, 3, 3)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_training_keeps_zeros(optimizer: str) -> None:
    program = graphc.set_training(sparse(residual(), sparsity=0.5), True)
    before = {name: program.tensors()[name].detach().clone() for name in WEIGHTS}
    options = {"lr": 0.01, "weight_decay": 0.1} | ({"momentum": 0.9} if optimizer == "SGD" else {})
    steps = getattr(torch.optim, optimizer)(program.parameters(), **options)
    for _ in range(3):
        steps.zero_grad()
        program(torch.randn(4, 3, 16, 16)).square().sum().backward()
        steps.step()
    for name in WEIGHTS:
        after = program.tensors()[name]
        assert torch.equal(after == 0, before[name] == 0)
        assert not torch.equal(after, before[name])


def test_artifacts_have_zeros_and_no_masks(tmp_path: Any) -> None:
    passes = [Sparsify(mask_structure="2:4", ignore=("stem",)), PruneFilters(filters={"conv1": [3, 9]})]
    done = graphc.compile(residual(), passes=passes, emit=["m.onnx", "m.pt2", "m/"], output_dir=tmp_path)
    expected = {name: zeros(done.program, name) for name in WEIGHTS}
    loaded = [graphc.load(tmp_path / name) for name in ("m.pt2", "m")]
    for program in loaded:
        assert not find_masks(program)
        assert not [name for name in program.tensors() if "mask" in name]
        assert {name: zeros(program, name) for name in WEIGHTS} == expected
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert {name: (int((stored[name] == 0).sum()), stored[name].size) for name in WEIGHTS[1:3]} == {
        name: expected[name] for name in WEIGHTS[1:3]
    }
    assert not [name for name in stored if "mask" in name]
    assert done.report["after"]["bytes"] < done.report["before"]["bytes"]


def test_masks_of_torch_are_read_and_cut() -> None:
    torch.manual_seed(0)
    model = models.randomise(models.Residual(width=16)).eval()
    prune.l1_unstructured(model.conv1, "weight", 0.7)
    prune.random_unstructured(model.head, "weight", 0.5)
    program = graphc.capture(model, (torch.randn(3, 3, 16, 16),))
    found = {mask.weight: mask.mask for mask in find_masks(program)}
    assert found == {"conv1.weight_orig": "conv1.weight_mask", "head.weight_orig": "head.weight_mask"}
    cut = graphc.compile(program, passes=[PruneFilters(pruning_ratio=0.5)]).program
    assert cut.tensors()["conv1.weight_mask"].shape == (16, 8, 3, 3)
    plain = make_permanent(program)
    assert "conv1.weight" in plain.tensors()
    assert not find_masks(plain)
    x = torch.randn(5, 3, 16, 16)
    assert torch.allclose(plain(x), model(x), atol=1e-6)
    back = graphc.to_module(cut, model)
    assert torch.allclose(back(x), cut(x), atol=1e-5)


def test_more_sparsity_on_top() -> None:
    program = residual()
    once = sparse(program, sparsity=0.5)
    twice = sparse(once, sparsity=0.8)
    assert len(find_masks(twice)) == len(WEIGHTS)
    for name in WEIGHTS:
        assert share(twice, name) == pytest.approx(0.8, abs=0.02)
        assert bool((twice.tensors()[name][once.tensors()[name] == 0] == 0).all())


def test_a_tied_weight_is_masked_once() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=24, n_head=4, vocab_size=50, n_positions=16)
    ids = torch.randint(0, 50, (3, 7))
    dims = {"input_ids": {0: "batch", 1: "sequence"}}
    program = graphc.capture(GPT2LMHeadModel(config).eval(), (), {"input_ids": ids}, dynamic=dims)
    done = sparse(program, sparsity=0.5)
    assert share(done, "transformer.wte.weight") == pytest.approx(0.5, abs=0.01)
    assert "lm_head.weight" in done.aliases
    smaller = graphc.compile(done, passes=[PruneHeads(pruning_ratio=0.5)]).program
    masks = {mask.weight: smaller.tensors()[mask.mask] for mask in find_masks(smaller)}
    assert masks["transformer.h.0.attn.c_attn.weight"].shape == (24, 36)


def test_experts_are_masked() -> None:
    from benchmarks import coverage

    (case,) = coverage.suite("transformers", "MixtralForCausalLM (sdpa)")
    program = graphc.capture(case.build(), (), case.inputs, dynamic=case.dynamic)
    done = sparse(program, mask_structure="2:4", targets=("re:.*experts",))
    weight = done.tensors()["model.layers.0.mlp.experts.down_proj"]
    assert int((weight.reshape(-1, 4) != 0).sum(1).max()) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "sparsify needs"),
        ({"sparsity": 0.5, "mask_structure": "2:4"}, "sparsify needs"),
        ({"mask_structure": "4:2"}, "0 < N < M"),
        ({"mask_structure": "half"}, "0 < N < M"),
        ({"sparsity": 1.0}, "less than 1"),
    ],
)
def test_wrong_options(options: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Sparsify(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 0.5, "targets": ("conv9",)}, "matches nothing"),
        ({"sparsity": 0.5, "ignore": ("re:.*",)}, "finds no weight"),
        ({"mask_structure": "2:4", "targets": ("stem",)}, "no weight takes 2:4(?s:.)*stem.weight has 3 inputs"),
        ({"sparsity": 0.5, "importance": "wanda"}, "needs data called 'calibration'"),
    ],
)
def test_what_cannot_be_masked(options: Any, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        sparse(residual(), **options)
