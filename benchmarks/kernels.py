"""Kernels of ordinary networks cut to their middle: equal to the network with the outer ring of those kernels masked.

    python -m benchmarks.kernels --out benchmarks/results                  # or name models of torchvision and timm

Weights are random, statistics of batch norms those of random images. The control is how far the cut moves the outputs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from graphc.passes import SliceElastic
from graphc.passes.elastic.kernels import find_kernels
from rich.console import Console

import graphc
from benchmarks.quality.study import conclude
from graphc.ir.edit import rebuild
from graphc.measure.environment import environment
from graphc.pipeline.base import Context

MODELS = {
    "efficientnet_b0": 3,
    "mobilenet_v3_large": 3,
    "mnasnet1_0": 3,
    "convnext_tiny": 5,
    "inception_v3": 3,
    "timm/tf_efficientnet_lite0": 3,
    "timm/mixnet_s": 3,
    "timm/repvit_m0_9": 1,
    "timm/mobilenetv4_conv_small": 3,
}
"""Names, and the largest kernel that is left."""

COLUMNS = (
    "network",
    "kernel",
    "weights cut",
    "parameters before",
    "after",
    "relative difference",
    "cut moves outputs by",
)
LIMIT = 1e-5
PIXELS = 96


@dataclass(frozen=True)
class Result:
    """One network.

    Attributes:
        kernels: how many weights were cut.
        parameters: before and after.
        difference: between the cut and the masked network, of the largest output.
        moved: how far the cut network is from the whole one, likewise.
    """

    name: str
    size: int
    kernels: int
    parameters: tuple[int, int]
    difference: float
    moved: float


def masked(program: graphc.Program, sizes: Mapping[str, int]) -> graphc.Program:
    """Kernels with all but their middle set to zero, which compute what those compute that are cut."""
    tensors: dict[str, torch.Tensor] = {}
    for name, size in sizes.items():
        weight = program.tensors()[name].detach()
        keep = torch.zeros_like(weight)
        middle = [slice((n - min(n, size)) // 2, (n + min(n, size)) // 2) for n in weight.shape[2:]]
        keep[(slice(None), slice(None), *middle)] = 1
        tensors[name] = torch.nn.Parameter(weight * keep)
    return rebuild(program, tensors=tensors)


def build(name: str) -> torch.nn.Module:
    """A classifier of torchvision, or of timm where the name says so, with random weights and statistics."""
    torch.manual_seed(0)
    if name.startswith("timm/"):
        import timm

        model = timm.create_model(name.removeprefix("timm/"))
    else:
        from torchvision.models import get_model

        model = get_model(name, **({"init_weights": True} if name in ("inception_v3", "googlenet") else {}))
    model.eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "layer_scale" in key or key.endswith("gamma"):
                parameter.fill_(0.5)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.momentum = None  # the average of all batches that there were: of one
            norm.train()
        model(torch.randn(8, 3, PIXELS, PIXELS))
        return model.eval()


def prove(name: str, size: int, pixels: int = PIXELS) -> Result:
    """Cut all kernels that can be cut to a size, by name, and compare."""
    program = graphc.capture(build(name), (torch.randn(2, 3, pixels, pixels),))
    kernels = find_kernels(program)
    sizes = {weight: size for weight, kernel in kernels.items() if kernel.size > size and not kernel.misfit(size)}
    asked = SliceElastic(kernel={weight.removesuffix(".weight"): size for weight in sizes} | sizes)
    cut = asked.run(program, Context(program))
    asked.ensures(program, cut)
    x = torch.randn(3, 3, pixels, pixels)
    with torch.no_grad():
        whole, expected, outputs = program(x), masked(program, sizes)(x), cut(x)
    scale = float(expected.abs().max())
    counts = [sum(p.numel() for p in each.parameters()) for each in (program, cut)]
    difference, moved = (float((a - b).abs().max()) / scale for a, b in ((outputs, expected), (outputs, whole)))
    return Result(name, size, len(sizes), (counts[0], counts[1]), difference, moved)


def good(result: Result) -> bool:
    """Equal to the masked network, and another one than the whole one."""
    fewer = result.parameters[1] < result.parameters[0]
    return result.kernels > 0 and fewer and result.difference <= LIMIT < result.moved / 100


def main() -> int:
    """Print the table; 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of torchvision, or timm/NAME; all if none is given")
    parser.add_argument("--out", type=Path, required=True, help="folder for the table as CSV and Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160)
    console.print(environment())
    results: list[Result] = []
    for name in options.models or MODELS:
        results.append(prove(name, MODELS.get(name, 3)))
        console.print(results[-1])
    rows = [
        [
            r.name,
            str(r.size),
            str(r.kernels),
            *(f"{n:,}" for n in r.parameters),
            f"{r.difference:.1e}",
            f"{r.moved:.1e}",
        ]
        for r in results
    ]
    claims = {f"{len(results)} networks equal themselves with masked kernels, to {LIMIT}": all(map(good, results))}
    return conclude(
        "kernels", COLUMNS, rows, [f"{environment()}; 96 x 96 pixels, seed 0"], claims, options.out, console
    )


if __name__ == "__main__":
    sys.exit(main())
