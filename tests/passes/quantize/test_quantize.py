"""The pass quantize: what becomes integers, how near it stays, what onnxruntime makes of it, and what it refuses."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from graphc.passes import Finetune, PruneFilters, Quantize, Sparsify
from graphc.passes.quantize.fold import fold_batch_norms
from graphc.passes.quantize.target import find_target, known_targets
from torch import nn
from torch.nn import functional as F

import graphc
from graphc.errors import GraphError, RecipeError
from graphc.ir.quantized import DEQUANTIZE, QUANTIZE
from graphc.ir.watch import walk
from graphc.measure.placement import placement
from tests.models import Grouped, image, seeded, tiny_bert, tiny_gpt2, tiny_llama

BATCH = {0: "batch"}


def compiled(program: graphc.Program, data: list[Any], tmp_path: Path | None = None, **options: Any) -> Any:
    """A compilation with one quantize pass, its ONNX file if there is a folder."""
    return graphc.compile(
        program,
        passes=[Quantize(**{"smooth": 0.0, **options})],
        data={"calibration": data},
        emit=["model.onnx"] if tmp_path is not None else [],
        output_dir=tmp_path,
    )


def sqnr(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float(10 * torch.log10(a.square().sum() / (a - b).square().sum()))


def first(outputs: Any) -> torch.Tensor:
    found: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs.values()))
    return found


class Net(nn.Module):
    """Convolutions of every kind, a pool, a sum and a concatenation of values, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.side = nn.Conv2d(8, 8, 1, bias=False)
        self.last = nn.Conv2d(16, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        y = F.relu6(self.depthwise(x)) + x
        y = F.max_pool2d(torch.cat([y, self.side(x)], 1), 2)
        found: torch.Tensor = self.head(F.relu(self.last(y)).mean((2, 3)))
        return found


@pytest.fixture(scope="module")
def net() -> graphc.Program:
    model = seeded(Net).train()
    for _ in range(3):
        model(torch.randn(8, 3, 12, 12))
    return graphc.capture(model.eval(), (torch.randn(4, 3, 12, 12),), dynamic={"x": BATCH})


def images(count: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(4, 3, 12, 12) for _ in range(count)]


def test_a_network_of_convolutions_runs_in_integers_from_end_to_end(net: graphc.Program, tmp_path: Path) -> None:
    done = compiled(net, images(), tmp_path)
    x = torch.randn(16, 3, 12, 12)
    assert sqnr(net(x), done.program(x)) > 25
    found = placement(tmp_path / "model.onnx")
    assert not found.floating
    assert not found.unfused
    assert len(found.integer) == 5
    assert "5 of 5 products take integers" in done.report["passes"][0]["facts"]["says"]


def test_values_that_only_move_share_their_scale(net: graphc.Program) -> None:
    program = compiled(net, images()).program
    scales = {n.name: str(n.args[1]) for n in program.graph.nodes if n.target is QUANTIZE}
    assert scales["cat_quantized"] == scales["max_pool2d_quantized"] == scales["add_quantized"]
    assert scales["conv2d_2_quantized"] == scales["cat_quantized"]
    assert len(set(scales.values())) < len(scales)


def test_quantised_twice_with_one_scale_is_quantised_once(net: graphc.Program) -> None:
    program = compiled(net, images()).program
    values = {seen.node.name: seen.value for seen in walk(program, (images()[0],))}
    torch.testing.assert_close(values["max_pool2d_dequantized"], values["max_pool2d"], rtol=0, atol=0)


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], str, tuple[int, ...]]] = {
    "linear": (lambda: (nn.Linear(6, 4), torch.randn(3, 6)), "weight", (4, 1)),
    "grouped": (lambda: (nn.Conv2d(6, 4, 3, groups=2), torch.randn(2, 6, 5, 5)), "weight", (4, 1, 1, 1)),
    "conv1d": (lambda: (nn.Conv1d(6, 4, 3), torch.randn(2, 6, 5)), "weight", (4, 1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_have_a_scale_for_each_output(case: str) -> None:
    build, name, shape = CASES[case]
    torch.manual_seed(0)
    model, x = build()
    program = graphc.capture(model.eval(), (x,))
    after = compiled(program, [x]).program.tensors()
    assert after[name].dtype == torch.int8
    assert after[f"{name}_scale"].shape == shape
    outputs = program.tensors()[name].detach().flatten(1).abs().amax(1)
    torch.testing.assert_close(after[f"{name}_scale"].flatten(), outputs / 127)


def test_conv1d_of_gpt2_has_a_scale_for_each_output_too() -> None:
    model, inputs = tiny_gpt2()
    program = graphc.capture(model, (), inputs)
    after = compiled(program, [inputs], scheme="W8A16").program.tensors()
    weight = next(name for name in after if name.endswith("mlp.c_fc.weight"))
    assert after[f"{weight}_scale"].shape == (1, after[weight].shape[1])


@pytest.mark.parametrize("scheme", ["W8A8", "W8A8-dynamic", "W8A16", "W4A16"])
@pytest.mark.parametrize("build", [tiny_bert, tiny_gpt2, tiny_llama])
def test_language_models_stay_near_in_every_scheme(build: Any, scheme: str) -> None:
    model, inputs = build()
    program = graphc.capture(model, (), inputs, dynamic=dict.fromkeys(inputs, BATCH))
    options = {"group_size": 16} if scheme == "W4A16" else {}
    after = compiled(program, [inputs], scheme=scheme, **options).program
    assert sqnr(first(program(**inputs)), first(after(**inputs))) > (8 if scheme == "W4A16" else 20)
    assert graphc.measure.cost(after).bytes < 0.45 * graphc.measure.cost(program).bytes


@pytest.mark.parametrize(
    ("build", "scheme"), [(tiny_bert, "W8A8"), (tiny_llama, "W8A8-dynamic"), (tiny_bert, "W8A16"), (tiny_gpt2, "W4A16")]
)
def test_files_of_language_models_have_their_weights_in_integers(build: Any, scheme: str, tmp_path: Path) -> None:
    model, inputs = build()
    program = graphc.capture(model, (), inputs, dynamic=dict.fromkeys(inputs, BATCH))
    options = {"group_size": 16} if scheme == "W4A16" else {}
    compiled(program, [inputs], tmp_path, scheme=scheme, **options)
    kept = onnx.load(str(tmp_path / "model.onnx"))
    weights = [t for t in kept.graph.initializer if len(t.dims) > 1 and t.data_type == onnx.TensorProto.FLOAT]
    assert sum(math.prod(t.dims) for t in weights) < 0.2 * graphc.measure.cost(program).params
    products = placement(tmp_path / "model.onnx")
    assert len(products.integer) >= 9


def test_a_tied_table_is_kept_once(tmp_path: Path) -> None:
    model, inputs = tiny_gpt2()
    program = graphc.capture(model, (), inputs)
    assert program.aliases
    done = compiled(program, [inputs], tmp_path, scheme="W8A16")
    table = next(iter(program.aliases.values()))
    assert done.program.tensors()[table].dtype == torch.int8
    shape = list(program.tensors()[table].shape)
    kept = onnx.load(str(tmp_path / "model.onnx")).graph.initializer
    assert sum(sorted(t.dims) == sorted(shape) for t in kept) == 1


def test_zero_stays_zero(net: graphc.Program, tmp_path: Path) -> None:
    done = graphc.compile(
        net,
        passes=[Sparsify(sparsity=0.5), Quantize()],
        data={"calibration": images()},
        emit=["model.onnx"],
        output_dir=tmp_path,
    )
    weights = [v for n, v in done.program.tensors().items() if v.dtype == torch.int8 and v.dim() == 4]
    zeros = sum(int((v == 0).sum()) for v in weights)
    assert zeros >= 0.45 * sum(v.numel() for v in weights)


def test_the_guard_leaves_in_real_numbers_what_hurts_most(net: graphc.Program) -> None:
    plain = compiled(net, images(), bias_correction=False)
    x = torch.cat(images())
    reached = sqnr(net(x), plain.program(x))
    done = compiled(net, images(), bias_correction=False, min_sqnr_db=reached + 3)
    facts = done.report["passes"][0]["facts"]
    kept = [row for row in facts["sensitivity"] if row["kept"]]
    assert kept
    assert max(row["sqnr_db"] for row in kept) <= min(r["sqnr_db"] for r in facts["sensitivity"] if not r["kept"])
    assert sqnr(net(x), done.program(x)) >= reached + 3


def test_the_guard_leaves_biases_of_what_stays_in_real_numbers_alone(net: graphc.Program) -> None:
    x = torch.cat(images())
    reached = sqnr(net(x), compiled(net, images()).program(x))
    done = compiled(net, images(), min_sqnr_db=reached + 3)
    kept = [row["module"] for row in done.report["passes"][0]["facts"]["sensitivity"] if row["kept"]]
    folded, own = fold_batch_norms(net).tensors(), done.program.tensors()
    assert kept
    for module in kept:
        assert f"{module}.bias" not in folded or torch.equal(own[f"{module}.bias"], folded[f"{module}.bias"])
    assert sqnr(net(x), done.program(x)) >= reached + 3


def test_sensitivity_is_what_quantising_one_product_alone_costs(net: graphc.Program) -> None:
    done = compiled(net, images(), bias_correction=False, min_sqnr_db=1.0)
    rows = {row["node"]: row["sqnr_db"] for row in done.report["passes"][0]["facts"]["sensitivity"]}
    x = torch.cat(images())
    modules = {"conv2d": "first", "conv2d_3": "last", "linear": "head"}
    for node, module in modules.items():
        alone = compiled(net, images(), bias_correction=False, targets=(module,)).program
        assert abs(rows[node] - sqnr(net(x), alone(x))) < 6


def test_a_guard_that_cannot_hold_says_so(net: graphc.Program) -> None:
    with pytest.raises(GraphError, match="cannot hold 200 dB"):
        compiled(net, images(), min_sqnr_db=200.0)


def test_a_guard_by_metric(net: graphc.Program) -> None:
    x = torch.cat(images())
    labels = net(x).argmax(1)
    done = graphc.compile(
        net,
        passes=[Quantize(max_drop=0.1)],
        data={"calibration": images(), "eval": [(x, labels)]},
        metric="accuracy",
    )
    assert done.report["after"]["metric"] >= 0.9


def test_bias_correction_brings_the_mean_back(net: graphc.Program) -> None:
    x = torch.cat(images())
    errors = []
    for corrected in (False, True):
        program = compiled(net, images(), bias_correction=corrected).program
        errors.append(float((program(x) - net(x)).detach().mean(0).norm()))
    assert errors[1] < 0.3 * errors[0]


def test_smoothing_by_trial_is_never_worse(net: graphc.Program) -> None:
    model, inputs = tiny_bert()
    program = graphc.capture(model, (), inputs, dynamic=dict.fromkeys(inputs, BATCH))
    reached = [
        sqnr(first(program(**inputs)), first(compiled(program, [inputs], smooth=smooth).program(**inputs)))
        for smooth in (0.0, "auto")
    ]
    assert reached[1] >= reached[0] - 0.5


def test_pruning_after_quantising_is_refused(net: graphc.Program) -> None:
    with pytest.raises(GraphError, match="quantised"):
        graphc.compile(net, passes=[Quantize(), PruneFilters(pruning_ratio=0.5)], data={"calibration": images()})


def test_quantising_twice_is_refused(net: graphc.Program) -> None:
    with pytest.raises(GraphError, match="quantised already"):
        graphc.compile(net, passes=[Quantize(), Quantize(name="again")], data={"calibration": images()})


def test_static_without_data(net: graphc.Program) -> None:
    with pytest.raises(RecipeError, match="needs data called 'calibration'"):
        graphc.compile(net, passes=[Quantize()])


def test_data_of_another_shape(net: graphc.Program) -> None:
    with pytest.raises(RecipeError, match="does not fit the input"):
        compiled(net, [torch.randn(2, 1, 12, 12)])


def test_a_scheme_that_the_target_cannot_run() -> None:
    with pytest.raises(RecipeError, match="cannot run the scheme W8A8-dynamic"):
        Quantize(scheme="W8A8-dynamic", target="tensorrt")


@pytest.mark.parametrize("name", ["onnxruntim-cpu", "x" * 300, "a\0.yaml"])
def test_a_target_that_is_none(name: str) -> None:
    with pytest.raises(RecipeError, match=r"onnxruntime-cpu"):
        Quantize(target=name)


@pytest.mark.parametrize("content", [b"weights: [", b"\xff\xfe\xff", b"- a"])
def test_a_target_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match="cannot be read"):
        Quantize(target=str(tmp_path / "mine.yaml"))


def test_blocks_that_no_kernel_has() -> None:
    with pytest.raises(RecipeError, match="no kernel has blocks of 24"):
        Quantize(scheme="W4A16", group_size=24, target="onnxruntime-cpu")


def test_an_operator_set_without_four_bits(net: graphc.Program, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs opset_version 21"):
        graphc.compile(net, passes=[Quantize(scheme="W4A16")], emit=["m.onnx"], opset_version=19, output_dir=tmp_path)


def test_weights_that_are_no_numbers() -> None:
    model = nn.Linear(6, 4)
    model.weight.data[1, 2] = float("nan")
    program = graphc.capture(model.eval(), (torch.randn(3, 6),))
    with pytest.raises(GraphError, match="a weight cannot be quantised"):
        compiled(program, [torch.randn(3, 6)])


def test_a_program_without_products() -> None:
    program = graphc.capture(nn.ReLU(), (torch.randn(3, 6),))
    with pytest.raises(GraphError, match="nothing to quantise"):
        compiled(program, [torch.randn(3, 6)])


@pytest.mark.parametrize("options", [{}, {"embeddings": True}, {"smooth": 0.5, "equalize": True}])
def test_a_choice_that_leaves_nothing_is_refused(options: dict[str, Any]) -> None:
    program = graphc.capture(seeded(nn.Linear, 6, 4).eval(), (torch.randn(3, 6),))
    with pytest.raises(GraphError, match="nothing to quantise"):
        graphc.compile(
            program, passes=[Quantize(ignore=["re:.*"], **options)], data={"calibration": [torch.randn(3, 6)]}
        )


def test_a_mean_of_what_runs_in_integers(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).mean(1)

    program = graphc.capture(seeded(Mean).eval(), (torch.randn(3, 5, 6),))
    compiled(program, [torch.randn(3, 5, 6)], tmp_path, scheme="W8A8-dynamic")
    assert "DynamicQuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_a_constant_value_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].bias.data.fill_(-100.0)  # type: ignore[union-attr] # a linear layer
    program = graphc.capture(model.eval(), (torch.randn(3, 6),))
    with pytest.raises(GraphError, match="relu"):
        compiled(program, [torch.randn(3, 6)])


def test_every_target_that_comes_with_graphc_is_right() -> None:
    assert {"onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "openvino"} <= set(known_targets())
    for name in known_targets():
        assert find_target(name).schemes


def test_a_target_of_the_users_own(net: graphc.Program, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "about: mine\nvalues: {dtype: int8, symmetric: true}\nweights: {bits: 7}\n"
        "schemes: {W8A8: {products: {linear: real}}}\n"
    )
    program = compiled(net, images(), target=str(path)).program
    assert [n.args[0].name for n in program.graph.nodes if n.target is QUANTIZE] == ["mean"]
    assert int(program.tensors()["head.weight"].abs().max()) == 63
    path.write_text("about: mine\nvalues: {dtype: int9, symmetric: true}\n")
    with pytest.raises(RecipeError, match=r"values\.dtype"):
        Quantize(target=str(path))


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_other_targets_compute_the_same_to_rounding(net: graphc.Program, target: str, tmp_path: Path) -> None:
    done = compiled(net, images(), tmp_path, target=target)
    x = torch.cat(images())
    assert sqnr(net(x), done.program(x)) > 20


def test_groups_of_the_test_net_stay_near() -> None:
    program = graphc.capture(seeded(Grouped).eval(), (image(),), dynamic={"x": BATCH})
    done = compiled(program, [image()])
    assert sqnr(first(program(image())), first(done.program(image()))) > 20
    assert any(n.target is DEQUANTIZE for n in done.program.graph.nodes)


def test_training_with_roundings(net: graphc.Program, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.cat(images())
    labels = net(x).argmax(1)
    done = graphc.compile(
        net,
        passes=[
            Finetune(
                epochs=4,
                learning_rate=1e-3,
                losses=({"type": "cross-entropy"},),
                during=({"type": "qat"}, {"type": "gradual-sparsity", "sparsity": 0.5, "frequency": 1}),
            )
        ],
        data={"train": [(x, labels)], "calibration": images(), "eval": [(x, labels)]},
        metric="accuracy",
        emit=["model.onnx"],
        output_dir=tmp_path,
    )
    weights = [v for n, v in done.program.tensors().items() if v.dtype == torch.int8 and v.dim() == 4]
    assert sum(int((v == 0).sum()) for v in weights) >= 0.45 * sum(v.numel() for v in weights)
    assert not placement(tmp_path / "model.onnx").floating
    assert done.report["after"]["metric"] > 0.8
