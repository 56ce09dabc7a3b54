"""slice-elastic: sub-networks equal those written by hand, in every way of asking; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import Finetune, PruneFilters, Quantize, Recalibrate, SliceElastic
from graphc.passes.elastic import find_space, sorted_channels, subnetwork
from torch import Tensor

import graphc
from graphc.errors import GraphError, RecipeError
from graphc.pipeline.base import Context
from tests import models
from tests.passes.elastic import nets


@pytest.fixture(scope="module", params=[True, False], ids=["matrices", "plain"])
def net(request: pytest.FixtureRequest) -> nets.Supernet:
    return nets.supernet(request.param)


@pytest.fixture(scope="module")
def program() -> graphc.Program:
    return nets.captured(nets.supernet())


def made(program: graphc.Program, **options: Any) -> graphc.Program:
    """The pass as the runner runs it."""
    each = SliceElastic(**options)
    each.requires(program)
    after = each.run(program, Context(program))
    each.ensures(program, after)
    return after


def check(after: graphc.Program, net: nets.Supernet, chosen: nets.Chosen) -> None:
    """As computed by hand, on another batch, with as many parameters."""
    torch.manual_seed(2)
    x = torch.randn(2, 3, 20, 22)
    taken: list[Tensor] = []
    with torch.no_grad():
        expected = nets.by_hand(net, chosen, x, lambda *tensors: taken.extend(tensors))
        torch.testing.assert_close(after(x), expected, rtol=1e-5, atol=1e-5)
        assert (net(x) - expected).abs().max() > 1e-2, "the cut changes nothing, and the comparison says nothing"
    assert sum(p.numel() for p in after.parameters()) == sum(t.numel() for t in taken)


def test_sub_networks_are_those_written_by_hand(net: nets.Supernet) -> None:
    program = nets.captured(net)
    for chosen in nets.CASES.values():
        after = made(program, kernel=chosen.kernel, expand=chosen.expand, depth=chosen.depth)
        check(after, net, chosen)


def test_matrices_can_be_left_out() -> None:
    net = nets.supernet()
    program, plain = nets.captured(net), nets.captured(nets.supernet(matrices=False))
    chosen = made(program, kernel=3, matrices=False)
    x = torch.randn(2, 3, 20, 22)
    torch.testing.assert_close(chosen(x).shape, plain(x).shape)
    assert not torch.allclose(chosen(x), made(program, kernel=3)(x), atol=1e-3)
    with pytest.raises(GraphError, match="no kernel transformation matrices"):
        made(plain, kernel=3, matrices=True)


def test_one_number_is_the_most_and_names_are_exact() -> None:
    net = nets.supernet()
    program = nets.captured(net)
    check(made(program, kernel=3, expand=3, depth=1), net, nets.CASES["smallest"])
    named = made(program, kernel={"stages.1": 5, "re:stages.[25]": 3}, depth={"stages.0-2": 2}, width={"stages.0": 24})
    check(named, net, nets.Chosen((7, 5, 3, 7, 7, 3), (3, 6, 6, 6, 6, 6), (2, 3)))
    partly = made(program, kernel=[None, 5, None, None, None, 3], expand=[3, None, None, None, None, None])
    check(partly, net, nets.Chosen((7, 5, 7, 7, 7, 3), (3, 6, 6, 6, 6, 6)))


def test_the_options_are_a_spec(program: graphc.Program) -> None:
    space = find_space(program, expand=[6, 4, 3])
    spec = space.sample(torch.Generator().manual_seed(5))
    x = program.example()[0]
    torch.testing.assert_close(
        made(program, **spec.to_dict())(*x), subnetwork(program, space, spec)(*x), rtol=0, atol=0
    )


def test_sorting_changes_no_function_and_keeps_what_weighs_most(program: graphc.Program) -> None:
    x = program.example()[0]
    turned = sorted_channels(program)
    torch.testing.assert_close(turned(*x), program(*x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(program, sort=True)(*x), turned(*x), rtol=0, atol=0)
    weights = turned.tensors()["stages.1.down.weight"].abs().sum((0, 2, 3))
    assert torch.equal(weights, weights.sort(descending=True).values)
    inner = turned.tensors()["stages.1.excite.weight"].abs().sum((0, 2, 3))
    assert bool((inner[:-1] >= inner[1:] - 1e-6).all())
    cut = made(program, expand=3, sort=True)
    torch.testing.assert_close(cut(*x), made(turned, expand=3)(*x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(cut(*x), made(program, expand=3)(*x), atol=1e-3)


def test_channels_between_blocks(program: graphc.Program) -> None:
    streams = [8, 16, 24]
    after = made(program, width=[None, 0.5, 16])
    shapes = {name: tuple(t.shape) for name, t in after.tensors().items()}
    assert shapes["stem.weight"][0] == streams[0]
    assert shapes["stages.1.down.weight"] == (8, 96, 1, 1)
    assert shapes["stages.3.up.weight"] == (96, 8, 1, 1)
    assert shapes["stages.4.up.weight"] == (144, 16, 1, 1)
    assert shapes["head.weight"] == (5, 16)
    expanded = made(program, width=[None, 0.5, 16], expand=5).tensors()
    assert tuple(expanded["stages.1.up.weight"].shape) == (40, 8, 1, 1)
    assert tuple(expanded["stages.4.squeeze.weight"].shape) == (24, 80, 1, 1)


CONFIG = {"ks": [3, 5, 7, 5, 3, 7], "e": [4, 3, 6, 3, 4, 6], "d": [2, 4]}
FIX_SUBNET = {
    "backbone.first_channels": 8,
    "backbone.layers.1.depth": 2,
    "backbone.layers.1.out_channels": 16,
    "backbone.layers.2.depth": 3,
    **{f"backbone.layers.{1 + i // 3}.{i % 3}.kernel_size": CONFIG["ks"][i] for i in range(6)},
    **{f"backbone.layers.{1 + i // 3}.{i % 3}.expand_ratio": CONFIG["e"][i] for i in range(6)},
}


def test_configs_of_other_projects(tmp_path: Path) -> None:
    net = nets.supernet()
    program = nets.captured(net)
    check(made(program, config={**CONFIG, "r": 224}), net, nets.CASES["all"])
    path = tmp_path / "subnet.json"
    path.write_text(json.dumps(CONFIG))
    check(made(program, config=str(path)), net, nets.CASES["all"])
    chosen = {key: {"chosen": value} for key, value in FIX_SUBNET.items()}
    check(made(program, config={**chosen, "input_shape": {"chosen": [20, 22]}}), net, nets.CASES["all"])
    path = tmp_path / "subnet.yaml"
    path.write_text("".join(f"{key}:\n  chosen: {value}\n" for key, value in FIX_SUBNET.items()))
    check(made(program, config=str(path)), net, nets.CASES["all"])
    stages = {"width": [8, 16, 24, 24], "depth": [1, 2], "kernel_size": [3, 5], "expand_ratio": [3, 4]}
    expected = nets.Chosen((3, 3, 3, 5, 5, 5), (3, 3, 3, 4, 4, 4), (1, 2))
    check(made(program, config=stages), net, expected)


def test_a_squeeze_branch_of_another_width_than_its_block(program: graphc.Program) -> None:
    config = {"layers.1.0.expand_ratio": {"chosen": 3}, "layers.1.0.expand_ratio_se": {"chosen": 6}}
    config |= {"layers.2.depth": {"chosen": 3}}
    after = made(program, config=config)
    assert tuple(after.tensors()["stages.0.squeeze.weight"].shape) == (16, 24, 1, 1)
    assert tuple(made(program, expand=3).tensors()["stages.0.squeeze.weight"].shape) == (8, 24, 1, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel": 4}, r"kernel of stages.0 cannot be 4(.|\n)*legal: 7, 5, 3"),
        ({"kernel": 9}, r"no kernel is as large as 9(.|\n)*largest is 7"),
        ({"kernel": [3, 3]}, r"kernel is a list of 2, and there are 6(.|\n)*stages.0"),
        ({"kernel": {"stages.8": 3}}, r"'stages.8' matches nothing(.|\n)*did you mean"),
        ({"expand": {"stages.2": 8}}, r"stages.2 cannot be expanded so much(.|\n)*96 down to 1 (.|\n)*at most 6"),
        ({"depth": {"stages.0-2": 4}}, r"depth of stages.0-2 cannot be 4(.|\n)*legal: 3, 2, 1"),
        ({"depth": 0}, r"depth of stages.0-2 cannot be 0"),
        ({"width": {"stages.2": 97}}, r"width of stages.2 cannot be 97"),
        ({"expand": 3, "width": {"stages.2": 48}}, "two widths for one block"),
        ({"stages": [3, 2], "kernel": 3}, r"the stages have 5 blocks, and the network has 6"),
        ({"blocks": ["nothing"], "kernel": 3}, "matches nothing"),
        ({}, "needs one of config"),
        ({"config": {"ks": 3}, "kernel": 3}, "needs one of config"),
        ({"config": {"ks": 3, "f": 3}}, "unknown key 'f'"),
        ({"config": {"ks": "3"}}, "ks of the config cannot be '3'"),
        ({"config": {"ks": [3, True]}}, "ks of the config cannot be"),
        ({"config": {"depth": 2}}, "depth of the config cannot be 2"),
        ({"config": {"layers.1.depth": {"chosen": [3]}}}, "layers.1.depth of the config cannot be"),
        ({"config": "no\0file"}, "cannot read the config"),
        ({"config": {"size": 3}}, "no known format"),
        ({"config": "no/such/file.yaml"}, "cannot read the config"),
        ({"config": {"ks": 3, "w": 0}}, "the config needs width_mult_list"),
        ({"config": {"w": 3, "width_mult_list": [0.5, 1]}}, "w cannot be 3"),
        ({"config": {"layers.1.kernel": {"chosen": 3}}}, "'layers.1.kernel' cannot be read"),
        ({"config": {"layers.1.depth": {"chosen": 3}}}, r"the config has 1 stages, the network 2"),
        ({"config": {"depth": [1, 2], "kernel_size": [3]}}, "differ in length"),
    ],
)
def test_what_does_not_fit_is_refused(program: graphc.Program, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        made(program, **options)


def test_a_network_without_blocks_or_kernels_says_so() -> None:
    with pytest.raises(RecipeError, match="nothing has a kernel to choose"):
        made(graphc.capture(models.seeded(torch.nn.Linear, 6, 4), (models.vectors(),)), kernel=3)


def test_a_sub_network_trains_recalibrates_prunes_quantises_and_is_emitted(tmp_path: Path) -> None:
    torch.manual_seed(4)
    batches = [(torch.randn(8, 3, 20, 22), torch.randint(0, 5, (8,))) for _ in range(2)]
    inputs = [batch for batch, _ in batches]
    done = graphc.compile(
        nets.supernet(),
        (inputs[0],),
        passes=[
            SliceElastic(kernel=[3, 5, 7, 3, 5, 7], expand=4, depth=2, sort=True),
            Recalibrate(),
            PruneFilters(pruning_ratio=0.25),
            Finetune(epochs=1),
            Quantize(scheme="W8A8"),
        ],
        data={"calibration": inputs, "train": batches},
        emit=["net.onnx"],
        output_dir=tmp_path,
    )
    assert done.report["passes"][0]["name"] == "slice-elastic"
    assert (tmp_path / "net.onnx").exists()
