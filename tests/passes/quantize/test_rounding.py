"""Weights of whole programs, by each method; what stands in ONNX files."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from graphc.passes import Quantize, Sparsify
from graphc.passes.calibration import Calibration
from graphc.passes.contractions import contractions
from graphc.passes.quantize.grids import Grids
from graphc.passes.quantize.rounding import Method, by_inputs, round_weights
from graphc.passes.quantize.weights import layouts
from torch import nn

import graphc
from graphc.errors import RecipeError
from graphc.ir.watch import run_watched, walk
from tests.models import seeded, tiny_gpt2

BATCH = {0: "batch"}


class Encoder(nn.Module):
    """Two hidden layers on correlated inputs, sizes that blocks divide and one that they do not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 33), nn.GELU(), nn.Linear(33, 16, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


def correlated(count: int, seed: int) -> list[torch.Tensor]:
    """Inputs of 64 numbers that lie near a plane of 12 dims."""
    torch.manual_seed(7)
    plane = torch.randn(12, 64)
    torch.manual_seed(seed)
    return [torch.randn(16, 12) @ plane + 0.1 * torch.randn(16, 64) for _ in range(count)]


def images(count: int, seed: int) -> list[torch.Tensor]:
    """Images whose neighbouring points are alike."""
    torch.manual_seed(seed)
    return [nn.functional.avg_pool2d(torch.randn(4, 3, 18, 18), 5, 1, 2) for _ in range(count)]


class Images(nn.Module):
    """Convolutions of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 5, groups=16, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 24, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(24, 8, 3, stride=2),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


@pytest.fixture(scope="module")
def encoder() -> graphc.Program:
    return graphc.capture(seeded(Encoder).eval(), (correlated(1, 0)[0],), dynamic={"x": BATCH})


def rounded(program: graphc.Program, method: Method, bits: int, data: list[torch.Tensor], group: int | None) -> Any:
    products = list(contractions(program))
    grids = {name: Grids(layout, bits, True) for name, layout in layouts(program, products, group).items()}
    with torch.no_grad():
        return round_weights(program, products, grids, method, Calibration(lambda: data))


def loss(program: graphc.Program, found: dict[str, Any], data: list[torch.Tensor]) -> float:
    """Mean squared error of the outputs with the numbers that integers stand for."""
    tensors = {name: weight.real() for name, weight in found.items()}
    with torch.no_grad():
        errors = [run_watched(program, {}, (x,), tensors=tensors) - program(x) for x in data]
    return float(torch.cat([error.flatten() for error in errors]).square().mean())


@pytest.mark.parametrize(("bits", "group"), [(4, 16), (4, None), (8, None)])
def test_each_method_is_better_than_the_one_before(encoder: graphc.Program, bits: int, group: int | None) -> None:
    data, unseen = correlated(8, 1), correlated(4, 2)
    methods: tuple[Method, ...] = ("round-to-nearest", "mse", "gptq")
    nearest, mse, gptq = (loss(encoder, rounded(encoder, m, bits, data, group), unseen) for m in methods)
    assert mse <= nearest * (1.02 if bits == 8 else 0.95)
    assert gptq < 0.6 * mse


def test_convolutions_are_rounded_by_their_inputs() -> None:
    program = graphc.capture(seeded(Images).eval(), (images(1, 0)[0],), dynamic={"x": BATCH})
    data, unseen = images(4, 1), images(4, 2)
    found = {m: rounded(program, m, 4, data, None) for m in ("mse", "gptq")}
    assert len(by_inputs(program, contractions(program), found["gptq"])) == 4
    for name, weight in program.tensors().items():
        if name.endswith("weight"):
            assert found["gptq"][name].integers.shape == weight.shape
    assert loss(program, found["gptq"], unseen) < 0.6 * loss(program, found["mse"], unseen)


@pytest.mark.parametrize("method", ["round-to-nearest", "mse", "gptq"])
def test_sparse_weights_stay_sparse(encoder: graphc.Program, method: str) -> None:
    passes = [
        Sparsify(sparsity=0.6),
        Quantize(scheme="W4A16", group_size=16, target="onnxruntime-cpu", weight_method=method),
    ]
    done = graphc.compile(encoder, passes=passes, data={"calibration": correlated(4, 1)}).program
    sparse = graphc.compile(encoder, passes=passes[:1]).program
    weights = sparse.tensors()
    zeros = {p.weight: (weights[p.weight] * weights[f"{p.weight}_mask"]) == 0 for p in contractions(sparse)}
    found = rounded_in(done)
    assert len(found) == 3
    for name, real in found.items():
        assert zeros[name].float().mean() > 0.3
        assert not real[zeros[name]].any()


def rounded_in(program: graphc.Program) -> dict[str, torch.Tensor]:
    """The real weights of the linear layers of a converted program."""
    found: dict[str, torch.Tensor] = {}
    for seen in walk(program, *program.example()):
        if seen.node.target is torch.ops.aten.linear.default:
            source = seen.node.args[1]
            while source.op != "get_attr":
                source = source.args[0]
            found[str(source.target)] = seen.args[1]
    return found


def test_gptq_needs_data(encoder: graphc.Program) -> None:
    with pytest.raises(RecipeError, match="calibration"):
        graphc.compile(encoder, passes=[Quantize(scheme="W8A16", weight_method="gptq")])
    products = list(contractions(encoder))
    grids = {name: Grids(layout, 8) for name, layout in layouts(encoder, products).items()}
    with pytest.raises(RecipeError, match="needs calibration data"):
        round_weights(encoder, products, grids, "gptq")


def test_a_language_model_in_four_bits_with_zero_points(tmp_path: Path) -> None:
    """Transposed weights, a table that is tied to the logits; numbers and zero points of four bits in the file."""
    model, inputs = tiny_gpt2()
    program = graphc.capture(model, kwargs=inputs, dynamic={name: {0: "batch", 1: "tokens"} for name in inputs})
    done = graphc.compile(
        program,
        passes=[Quantize(scheme="W4A16", group_size=16, target="onnxruntime-cpu", weight_method="gptq")],
        data={"calibration": [inputs]},
        emit=["model.onnx"],
        output_dir=tmp_path,
    )
    kept = onnx.load(tmp_path / "model.onnx").graph.initializer
    four = {i.name for i in kept if i.data_type == onnx.TensorProto.UINT4}
    assert any("zero_point" in name for name in four)
    zeros = [value for name, value in done.program.tensors().items() if name.endswith("zero_point")]
    assert any(value.unique().numel() > 1 for value in zeros)
    says = done.report["passes"][0]["facts"]["says"]
    assert "9 weights by gptq; 1 that are no layer's matrix, as tables are, by mse" in says


def test_a_target_without_zero_points_gets_none(encoder: graphc.Program) -> None:
    passes = [Quantize(scheme="W4A16", group_size=64, target="tensorrt", weight_method="mse")]
    done = graphc.compile(encoder, passes=passes).program
    zeros = [value for name, value in done.tensors().items() if name.endswith("zero_point")]
    assert zeros
    assert all(value.unique().tolist() in ([8], [0]) for value in zeros)
