"""Sub-networks of Once-for-All's three families, cut out by graphc and by the package itself: equal, weight for weight.

    pip install --no-deps ofa==0.1.0.post202307202001
    python -m benchmarks.peers.ofa --out benchmarks/results

graphc is given the graph of the largest network and the config, nothing else; the reference is the package's own
``get_active_subnet(preserve_weight=True)``. Weights, scales and kernel matrices are random, statistics of batch norms
those of random images. Controls: how far the largest network is from the sub-network, and how far graphc's is with the
middle of a kernel in place of its matrix.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from graphc.passes import SliceElastic
from rich.console import Console
from torch import nn

import graphc
from benchmarks.quality.study import conclude
from graphc.measure.environment import environment
from graphc.pipeline.base import Context

PACKAGE = "ofa==0.1.0.post202307202001"
LIMIT = 1e-5
PIXELS = 64
COLUMNS = ("network", "config", "sorted", "parameters", "graphc", "nodes", "difference", "largest", "no matrices")
LISTS = {"depth_list": [0, 1, 2], "width_mult_list": [0.65, 0.8, 1.0]}
Config = dict[str, Any]


def build(family: str) -> nn.Module:
    """The largest network of a family, all of it random."""
    from ofa.imagenet_classification.elastic_nn.modules.dynamic_op import DynamicSeparableConv2d
    from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3, OFAProxylessNASNets, OFAResNets

    choices: Config = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    torch.manual_seed(0)
    DynamicSeparableConv2d.KERNEL_TRANSFORM_MODE = None if "cropped" in family else 1
    if family == "resnets":
        net = OFAResNets(n_classes=100, expand_ratio_list=[0.2, 0.25, 0.35], **{k: list(v) for k, v in LISTS.items()})
    elif family == "proxyless":
        net = OFAProxylessNASNets(n_classes=100, dropout_rate=0, width_mult=1.3, **choices)
    else:
        net = OFAMobileNetV3(n_classes=100, dropout_rate=0, width_mult=1.2 if "wide" in family else 1.0, **choices)
    net.set_max_net()
    return randomise(net)


def randomise(net: nn.Module) -> nn.Module:
    """Scales and statistics of batch norms, and kernel matrices, as a training might leave them."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.endswith("_matrix"):
                value += 0.1 * torch.randn(value.shape)
            elif name.endswith("bn.bias"):
                value.copy_(0.1 * torch.randn(value.shape))
            elif name.endswith("bn.weight"):
                value.copy_(0.75 + 0.5 * torch.rand(value.shape))
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the average of all batches that there were: of one
            norm.reset_running_stats()
        net.train()(torch.randn(8, 3, PIXELS, PIXELS))
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


@dataclass(frozen=True)
class Case:
    """A sub-network of a family, with or without its channels sorted first."""

    family: str
    config: Config
    sort: bool = False


MIXED: Config = {"ks": [3, 5, 7, 3] * 5, "e": [6, 3, 4, 4, 3] * 4, "d": [2, 3, 4, 2, 3]}
CASES = (
    Case("mobilenet_v3", {"ks": 7, "e": 6, "d": 4}),
    Case("mobilenet_v3", {"ks": 3, "e": 6, "d": 4}),
    Case("mobilenet_v3", {"ks": 7, "e": 3, "d": 4}),
    Case("mobilenet_v3", {"ks": 7, "e": 6, "d": 2}),
    Case("mobilenet_v3", {"ks": 3, "e": 3, "d": 2}),
    Case("mobilenet_v3", MIXED),
    Case("mobilenet_v3", MIXED, sort=True),
    Case("mobilenet_v3 wide", {"ks": 5, "e": [4, 3] * 10, "d": [4, 2, 3, 2, 4]}, sort=True),
    Case("mobilenet_v3 cropped", {"ks": 5, "e": 6, "d": 4}),
    Case("mobilenet_v3 cropped", MIXED, sort=True),
    Case("proxyless", {"ks": 3, "e": 3, "d": 2}),
    Case("proxyless", {"ks": [7, 3, 5] * 7, "e": [3, 6, 4] * 7, "d": [4, 3, 2, 2, 3, 4]}),
    Case("proxyless", {"ks": [7, 3, 5] * 7, "e": [3, 6, 4] * 7, "d": [2, 3, 4, 4, 3, 1]}, sort=True),
    Case("resnets", {"d": 0, "e": 0.2, "w": 0}),
    Case("resnets", {"d": [2, 0, 1, 2, 0], "e": [0.2, 0.35, 0.25] * 6, "w": [2, 1, 2, 0, 1, 2]}),
    Case("resnets", {"d": [0, 1, 2, 0, 1], "e": [0.35, 0.2, 0.25] * 6, "w": [0, 2, 1, 2, 0, 1]}, sort=True),
)


LARGEST = CASES[:1]


def drawn(family: str, net: nn.Module, count: int, seed: int) -> list[Case]:
    """Configs as the package itself samples them."""
    random.seed(seed)
    found = [Case(family, copy.deepcopy(net).sample_active_subnet(), sort=bool(i % 2)) for i in range(count)]
    return found


@dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        parameters: of the package's sub-network, and of graphc's.
        nodes: of graphc's graph, of the largest network's before.
        difference: between the two, the largest of any output.
        largest: between the largest network and the sub-network.
        plain: the same as ``difference`` where graphc takes the middle of kernels; None without matrices.
    """

    case: Case
    parameters: tuple[int, int]
    nodes: tuple[int, int]
    difference: float
    largest: float
    plain: float | None


def prove(case: Case, net: nn.Module, program: graphc.Program, images: torch.Tensor) -> Result:
    """Cut a sub-network out of the captured network, and compare it with the package's."""
    config = {**case.config, **LISTS} if "w" in case.config else case.config
    cut = SliceElastic(config=config, sort=case.sort)
    made = cut.run(program, Context(program))
    cut.ensures(program, made)
    reference = copy.deepcopy(net)
    if case.sort:
        reference.re_organize_middle_weights()
    reference.set_active_subnet(**case.config)
    with torch.no_grad():
        sub = reference.get_active_subnet(preserve_weight=True).eval()
        expected, whole = sub(images), program(images)
        outputs = made(images)
        plain = None
        if program.unused and min(_kernels(case.config)) < 7:
            other = SliceElastic(config=config, sort=case.sort, matrices=False)
            plain = _apart(other.run(program, Context(program))(images), expected)
    return Result(
        case,
        (sum(p.numel() for p in sub.parameters()), sum(p.numel() for p in made.parameters())),
        (len(made.graph.nodes), len(program.graph.nodes)),
        _apart(outputs, expected),
        _apart(whole, expected),
        plain,
    )


def _kernels(config: Mapping[str, Any]) -> Sequence[int]:
    sizes = config.get("ks", 7)
    return sizes if isinstance(sizes, (list, tuple)) else [sizes]


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def good(result: Result) -> bool:
    """Equal in outputs and in parameters."""
    return result.difference <= LIMIT and result.parameters[0] == result.parameters[1]


def prove_family(family: str, cases: Sequence[Case], random_cases: int, seed: int) -> list[Result]:
    """All cases of a family, from one capture."""
    net = build(family)
    torch.manual_seed(seed)
    images = torch.randn(2, 3, PIXELS, PIXELS)
    program = graphc.capture(net, (images,))
    every = [*cases, *drawn(family, net, random_cases, seed)]
    return [prove(case, net, program, images) for case in every]


def _row(result: Result) -> list[str]:
    case = result.case
    config = ", ".join(f"{key}: {value}" for key, value in case.config.items())
    plain = "" if result.plain is None else f"{result.plain:.1e}"
    figures = [f"{n:,}" for n in result.parameters]
    nodes = f"{result.nodes[1]} to {result.nodes[0]}"
    tail = [f"{result.difference:.1e}", f"{result.largest:.1e}", plain]
    return [case.family, config, "yes" if case.sort else "no", *figures, nodes, *tail]


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if the peer is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=2, help="configs that the package samples, for each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the table as CSV and Markdown")
    options = parser.parse_args()
    if find_spec("ofa") is None:
        parser.error(f"the peer is not installed: pip install --no-deps {PACKAGE}")
    torch.set_num_threads(1)
    console = Console(width=180)
    where = f"{environment()}; {PACKAGE}, seed {options.seed}, images of {PIXELS} x {PIXELS}"
    console.print(where)
    results: list[Result] = []
    for family in dict.fromkeys(case.family for case in CASES):
        results += prove_family(family, [c for c in CASES if c.family == family], options.random, options.seed)
        console.print(f"{family}: {len(results)} sub-networks compared")
    return finish(results, where, options.out, console)


def finish(results: Sequence[Result], where: str, out: Path, console: Console) -> int:
    """Print and write the table and what it shows; 1 if a claim does not hold."""
    plain = [r.plain for r in results if r.plain is not None]
    claims = {
        f"{len(results)} sub-networks differ by at most {LIMIT} in any output": all(
            r.difference <= LIMIT for r in results
        ),
        "each has as many parameters as the package's": all(len(set(r.parameters)) == 1 for r in results),
        "each but the largest moves outputs by a hundred times that": all(
            r.largest > 100 * LIMIT for r in results if r.case not in LARGEST
        ),
        "kernels without their matrices compute something else": all(p > 100 * LIMIT for p in plain),
    }
    return conclude("ofa", COLUMNS, list(map(_row, results)), [where], claims, out, console)


if __name__ == "__main__":
    sys.exit(main())
