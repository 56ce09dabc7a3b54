"""Products of weights: equal at full rank, as near as the singular values say, and within budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from graphc.passes import Distill, PruneFilters, PruneWidth, Quantize
from graphc.passes.factorize import Factorize
from graphc.passes.factorize.bases import basis
from torch import nn

import graphc
from graphc.errors import GraphError, RecipeError
from tests import models

TOLERANCE = 1e-4


def run(program: graphc.Program, data: Any = None, **options: Any) -> Any:
    return graphc.compile(program, passes=[Factorize(**options)], data={"calibration": data} if data else {})


def apart(first: graphc.Program, second: graphc.Program) -> float:
    args, kwargs = first.example()
    with torch.no_grad():
        a, b = (torch.utils._pytree.tree_leaves(p(*args, **kwargs))[0] for p in (first, second))
    return float((a - b).abs().max() / a.abs().max())


def convolutions() -> graphc.Program:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.Conv2d(6, 70, 3, padding="same"),
        nn.Conv2d(70, 5, 3, stride=2),
    )
    return graphc.capture(model.eval(), (torch.randn(3, 3, 19, 23),))


def gpt2() -> graphc.Program:
    transformers = pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=32, n_embd=24, n_layer=1, n_head=3, bos_token_id=1, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    return graphc.capture(model, kwargs={"input_ids": torch.randint(0, 97, (3, 7))})


def shapes(program: graphc.Program) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in program.tensors().items()}


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker-2"])
def test_convolutions_at_full_rank_are_what_they_were(method: str) -> None:
    program = convolutions()
    done = run(program, rank="100%", method=method).program
    assert apart(program, done) < TOLERANCE
    made = shapes(done)
    assert not {"0.weight", "2.weight", "3.weight", "4.weight"} & set(made)
    kernels = {"svd": ((3, 3), (1, 1)), "spatial": ((3, 1), (1, 3)), "tucker-2": ((1, 1), (1, 1))}[method]
    assert (made["3.down.weight"][2:], made["3.up.weight"][2:]) == kernels


def test_a_tied_table_stays_one_and_has_one_projection(tmp_path: Path) -> None:
    program = gpt2()
    assert apart(program, run(program, rank="100%").program) < TOLERANCE
    done = run(program, rank=8, targets=["lm_head"]).program
    made = shapes(done)
    assert made["transformer.wte.down.weight"] == (97, 8)
    assert made["transformer.wte.up.weight"] == (24, 8)
    assert sum(97 in shape for shape in made.values()) == 1
    for name in ("a.onnx", "a.pt2", "a/"):
        graphc.emit(done, tmp_path / name)
    kept = [tuple(t.dims) for t in onnx.load(str(tmp_path / "a.onnx")).graph.initializer]
    assert sum(97 in shape for shape in kept) == 1
    assert sum(97 in shape for shape in shapes(graphc.load(tmp_path / "a.pt2")).values()) == 1
    assert sum(97 in shape for shape in shapes(graphc.load(tmp_path / "a")).values()) == 1


def test_a_tied_transformer_at_full_rank() -> None:
    program = graphc.capture(models.Transformer().eval(), (torch.randint(0, 37, (3, 7)),))
    assert apart(program, run(program, rank="100%").program) < TOLERANCE


@pytest.mark.parametrize("sizes", [(9, 5), (5, 9)])
def test_the_error_is_the_tail_of_the_squared_singular_values(sizes: tuple[int, int]) -> None:
    out, taken = sizes
    program = graphc.capture(nn.Linear(taken, out).eval(), (torch.randn(4, taken),))
    weight = program.tensors()["weight"].detach()
    made = run(program, rank=2).program.tensors()
    product = made["up.weight"].detach() @ made["down.weight"].detach()
    tail = torch.linalg.svdvals(weight)[2:].square().sum()
    assert float((weight - product).square().sum()) == pytest.approx(float(tail), rel=1e-4)


@pytest.mark.parametrize("sizes", [(9, 5), (5, 9)])
def test_aware_of_activations_the_tail_is_that_of_the_whitened_matrix(sizes: tuple[int, int]) -> None:
    weight = torch.randn(sizes, dtype=torch.float64)
    root = torch.randn(sizes[1], sizes[1], dtype=torch.float64)
    left, right = basis(weight, root @ root.t()).factors(weight, 2)
    tail = torch.linalg.svdvals(weight @ root)[2:].square().sum()
    assert float(((weight - left @ right) @ root).square().sum()) == pytest.approx(float(tail), rel=1e-6)


def test_spatial_and_tucker_errors_are_those_of_their_matrices() -> None:
    program = graphc.capture(nn.Conv2d(6, 7, 3, bias=False).eval(), (torch.randn(3, 6, 9, 8),))
    weight = program.tensors()["weight"].detach()
    made = {n: t.detach() for n, t in run(program, rank=3, method="spatial").program.tensors().items()}
    product = torch.einsum("orw,rih->oihw", made["up.weight"][:, :, 0], made["down.weight"][:, :, :, 0])
    tail = torch.linalg.svdvals(weight.permute(1, 2, 0, 3).reshape(18, 21))[3:].square().sum()
    assert float((weight - product).square().sum()) == pytest.approx(float(tail), rel=1e-4)
    made = {n: t.detach()[..., :, :] for n, t in run(program, rank=3, method="tucker-2").program.tensors().items()}
    up, core, down = made["up.weight"][..., 0, 0], made["core.weight"], made["down.weight"][..., 0, 0]
    error = float((weight - torch.einsum("or,rshw,si->oihw", up, core, down)).square().sum())
    tails = [torch.linalg.svdvals(weight.transpose(0, d).flatten(1))[3:].square().sum() for d in (0, 1)]
    assert max(map(float, tails)) * 0.999 <= error <= float(sum(tails)) * 1.001


def test_correlated_inputs_are_approximated_better_with_them_in_mind() -> None:
    torch.manual_seed(0)
    mix = torch.randn(24, 24) * torch.logspace(0, -2, 24)
    model = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 12)).eval()
    program = graphc.capture(model, (torch.randn(4, 24),))
    data, held = [torch.randn(64, 24) @ mix.t() for _ in range(4)], torch.randn(200, 24) @ mix.t()
    errors = {}
    for way in ("svd", "activation-aware"):
        done = run(program, data, rank=5, initialisation=way).program
        errors[way] = float((done(held) - program(held)).detach().square().mean())
    assert errors["activation-aware"] < 0.8 * errors["svd"]


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30_000, 768)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.words(ids)


def test_a_table_of_bert_has_a_sixth_of_its_entries() -> None:
    program = graphc.capture(Table().eval(), (torch.randint(0, 30_000, (3, 7)),))
    assert sum(p.numel() for p in program.parameters()) == 23_040_000
    assert sum(p.numel() for p in run(program, rank=128).program.parameters()) == 3_938_304


@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("method", ["svd", "tucker-2"])
def test_budgets_are_held_and_nearly_used_up(kind: str, method: str) -> None:
    program = convolutions()
    done = run(program, constraints={kind: "60%"}, method=method)
    figures = done.report["passes"][0]["facts"]["constraints"][kind]
    assert figures["asked"] * 0.93 < figures["reached"] <= figures["asked"]


def test_energy_leaves_what_would_not_be_smaller() -> None:
    program = gpt2()
    done = run(program, energy=0.9999)
    assert len(done.report["passes"][0]["facts"]["left"]) == 6
    assert apart(program, done.program) == 0


def test_axes_keep_their_names_and_the_new_one_can_be_cut() -> None:
    program = graphc.capture(models.Transformer().eval(), (torch.randint(0, 37, (3, 7)),))
    done = run(program, rank=6, targets=["blocks.0.up"]).program
    axes = {axis.name: axis for axis in graphc.find_axes(done)}
    assert axes["blocks.0.up.down.out"].size == 6
    assert axes["blocks.0.up.down.out"].pinned is None
    assert {axis.name for axis in graphc.find_axes(program)} <= set(axes)
    less = graphc.slice(done, {"blocks.0.up.down.out": range(4)})
    same = run(program, rank=4, targets=["blocks.0.up"]).program
    assert apart(less, same) < TOLERANCE


@pytest.fixture(scope="module")
def through() -> list[graphc.Program]:
    """A transformer of low rank, with lower ranks, then trained by a step, then quantised."""
    program = graphc.capture(models.seeded(models.Transformer), (models.tokens(),))
    ids = models.tokens()
    given = {"train": [(ids, ids)], "calibration": [ids]}
    passes = [
        Factorize(rank=8, targets=("tokens", "re:blocks.*(up|down)")),
        PruneWidth(pruning_ratio=0.25, targets=("re:.*down.out", "tokens")),
        Distill(steps=1, losses=[{"type": "logits-mse"}], learning_rate=0.01, log=None),
        Quantize(target="onnxruntime-cpu", smooth=0),
    ]
    return [graphc.compile(program, passes=passes[:n], data=given).program for n in range(1, 5)]


def test_ranks_are_pruned_trained_and_quantised(through: list[graphc.Program]) -> None:
    thin, pruned, trained, integers = (program.tensors() for program in through)
    factors = {name for name in thin if name.endswith((".down.weight", ".up.weight"))}
    assert len(factors) == 10
    assert all(8 in thin[name].shape and 6 in pruned[name].shape for name in factors)
    for name in factors:
        assert trained[name].shape == pruned[name].shape
        assert not torch.equal(trained[name], pruned[name])
        assert integers[name].dtype == torch.int8


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ""])
def test_a_factor_that_two_layers_read_is_one_tensor_in_every_file(
    suffix: str, through: list[graphc.Program], tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    graphc.emit(through[-1], path)
    if suffix == ".onnx":
        kept = [tuple(w.dims) for w in onnx.load(str(path)).graph.initializer if w.data_type == onnx.TensorProto.INT8]
    else:
        kept = [tuple(t.shape) for t in graphc.load(path).tensors().values() if t.dtype == torch.int8]
    assert sum(sorted(shape) == [6, 37] for shape in kept) == 1


def test_ranks_of_convolutions_are_filters() -> None:
    program = convolutions()
    done = run(program, rank=4, targets=["3"], method="tucker-2").program
    cut = graphc.compile(done, passes=[PruneFilters(pruning_ratio=0.5, targets=("3.down", "3.core"))]).program
    made = shapes(cut)
    assert made["3.down.weight"] == (2, 6, 1, 1)
    assert made["3.core.weight"] == (2, 2, 3, 3)
    assert made["3.up.weight"] == (70, 2, 1, 1)


@pytest.mark.parametrize(
    "options",
    [{}, {"rank": 3, "energy": 0.5}, {"energy": 0.0}, {"energy": 1.5}, {"rank": "0.3"}, {"rank": "100.5%"}],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Factorize(**options)


def test_what_cannot_be_done_is_refused_before_work() -> None:
    program = graphc.capture(models.Grouped().eval(), (torch.randn(3, 3, 8, 8),))
    with pytest.raises(GraphError, match=r"expand.weight has no rank 9(.|\n)*greatest rank is 3"):
        run(program, rank=9)
    with pytest.raises(GraphError, match=r"cannot factorise grouped.weight(.|\n)*in groups"):
        run(program, rank=2, targets=["grouped"])
    with pytest.raises(GraphError, match=r"cannot factorise up.weight(.|\n)*transposed"):
        run(program, rank=2, targets=["up"])
    with pytest.raises(GraphError, match="constraints cannot be met"):
        run(program, constraints={"params": 10})
    with pytest.raises(RecipeError, match="calibration"):
        run(program, rank=2, initialisation="activation-aware")
    with pytest.raises(RecipeError, match="nothing to factorise"):
        run(graphc.capture(nn.LayerNorm(7), (torch.randn(3, 7),)), rank=2)
