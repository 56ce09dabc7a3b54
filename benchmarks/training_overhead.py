"""What training through a captured program costs, and what a teacher's cache saves.

    python -m benchmarks.training_overhead [--steps N]

A training step (forward, cross-entropy, backward, AdamW) of the captured program is timed against that
of the user's module, in turns, on ResNet-18 and a BERT of 4 layers; attention dropout is off in both.
Then a student with a quarter of the teacher's multiply-accumulates is distilled for two epochs with a
cache of the teacher's values: the first fills it, the second reads it. Exit code 1 if the median ratio
of a step is above 1.05, or if the second epoch is not 1.5 times as fast as the first.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from graphc.passes import Distill, PruneFilters
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import graphc
from graphc.measure.environment import environment

LIMIT = 1.05
FASTER = 1.5
Step = Callable[[], None]


def resnet18(batch: int = 16, pixels: int = 64) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """torchvision's ResNet-18 for 10 classes, with images and labels."""
    from torchvision.models import resnet18 as build

    torch.manual_seed(0)
    return build(num_classes=10), {"x": torch.randn(batch, 3, pixels, pixels)}, torch.arange(batch) % 10


def bert(batch: int = 8, tokens: int = 64, hidden: int = 256) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """A BERT classifier of 4 layers, with tokens and labels."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * hidden,
        attention_probs_dropout_prob=0.0,
    )
    ids = torch.randint(0, 1000, (batch, tokens))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return BertForSequenceClassification(config), inputs, torch.arange(batch) % 2


def step_of(module: Any, parameters: list[nn.Parameter], inputs: dict[str, Tensor], labels: Tensor) -> Step:
    """One training step."""
    optimizer = torch.optim.AdamW(parameters, 1e-4)

    def step() -> None:
        outputs = module(**inputs)
        logits = outputs if isinstance(outputs, Tensor) else outputs.logits
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pair(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> tuple[Step, Step]:
    """A step of the module and one of its program, each with weights of its own."""
    program = graphc.set_training(graphc.capture(copy.deepcopy(model).eval(), (), inputs), True)
    own = step_of(program, list(program.parameters()), inputs, labels)
    return step_of(model.train(), list(model.parameters()), inputs, labels), own


def ratio(first: Step, second: Step, steps: int) -> tuple[float, float, float]:
    """Median seconds of both, timed in turns, and the median of the ratios of neighbours (second over first)."""
    times: list[tuple[float, float]] = []
    for i in range(steps + 3):
        took = []
        for step in (first, second):
            start = time.perf_counter()
            step()
            took.append(time.perf_counter() - start)
        if i >= 3:
            times.append((took[0], took[1]))
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return medians[0], medians[1], statistics.median(b / a for a, b in times)


def epochs(images: int, pixels: int, batch: int = 32) -> tuple[float, float]:
    """Seconds of the first and of the second epoch of a distillation with a cache."""
    model, _, _ = resnet18(2, pixels)
    x = torch.randn(images, 3, pixels, pixels, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(x), batch, shuffle=True)
    times: dict[int, float] = {}
    steps = -(-images // batch)

    def watch(event: str, about: Any) -> None:
        if event == "progress":
            times[about[0]] = time.perf_counter()

    passes = [
        PruneFilters(constraints={"macs": "25%"}, ranking="global"),
        Distill(epochs=3, losses=[{"type": "kl"}], teacher_cache=True, log=None),
    ]
    with tempfile.TemporaryDirectory() as folder:
        graphc.compile(
            model.eval(), (x[:2],), passes=passes, data={"train": loader}, output_dir=Path(folder), watch=watch
        )
    first = (times[steps] - times[1]) * steps / (steps - 1)
    return first, times[2 * steps] - times[steps]


def main() -> int:
    """Print the ratios; 1 if one is not within its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each model")
    parser.add_argument("--images", type=int, default=512, help="for the cache")
    parser.add_argument("--pixels", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    console.print(environment(), f"seed 0; {options.steps} steps in turns")
    table = Table("model", "module ms", "program ms", "program / module")
    found: list[float] = []
    for name, build in (("resnet18", resnet18), ("bert, 4 layers", bert)):
        first, second, value = ratio(*pair(*build()), options.steps)
        found.append(value)
        table.add_row(name, f"{first * 1e3:.1f}", f"{second * 1e3:.1f}", f"{value:.3f}")
    console.print(table)
    filled, read = epochs(options.images, options.pixels)
    console.print(
        f"epoch that fills the cache {filled:.1f} s, epoch that reads it {read:.1f} s: {filled / read:.2f} times"
    )
    worst = max(found)
    holds = worst <= LIMIT, filled / read >= FASTER
    console.print(
        f"step at most {LIMIT} of the module's, worst {worst:.3f}: {'holds' if holds[0] else 'DOES NOT HOLD'}"
    )
    console.print(f"cache at least {FASTER} times as fast: {'holds' if holds[1] else 'DOES NOT HOLD'}")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
