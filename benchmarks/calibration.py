"""Memory and time of calibrating a BERT of base size by methods that need histograms.

    python -m benchmarks.calibration [--samples N] [--tokens N] [--batch N] [--out DIR]

The pass quantize makes 8-bit integers of BERT (110 million random weights) with 512 random samples of
128 tokens, once a method, each in a process of its own, in one thread. The peak of memory is that of
the whole process: Python, PyTorch, the model in float32 and in integers too.
Exit code 1 if a peak is 4 GB or more, or a method fails.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from graphc.passes import Quantize
from rich.console import Console
from torch import Tensor

import graphc
from benchmarks import apart
from benchmarks.quality.study import conclude
from graphc.measure.environment import environment
from graphc.measure.memory import peak_bytes
from graphc.pipeline.base import Context

METHODS = ("percentile", "entropy")
LIMIT = 4e9
"""Bytes that the process may take."""
COLUMNS = ["method", "values calibrated", "before (GB)", "peak (GB)", "seconds", "of the processor"]


@dataclass(frozen=True)
class Spent:
    """What a calibration took.

    Attributes:
        values: groups of values that got a scale.
        before: peak of the process in bytes when the model was captured.
        peak: at the end.
        seconds, processor: by the clock, and of the processor.
    """

    values: int
    before: int
    peak: int
    seconds: float
    processor: float


def bert(layers: int = 12, width: int = 768) -> graphc.Program:
    """An encoder with random weights, as a program of token ids ``[batch, tokens]``."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    model = BertModel(BertConfig(num_hidden_layers=layers, **sizes)).eval()
    ids = next(texts(3, 20, 3))["input_ids"]
    return graphc.capture(model, (), {"input_ids": ids}, dynamic={"input_ids": {0: "batch", 1: "tokens"}})


def texts(samples: int, tokens: int, batch: int) -> Iterator[dict[str, Tensor]]:
    """Batches of random token ids."""
    generator = torch.Generator().manual_seed(1)
    for start in range(0, samples, batch):
        shape = (min(batch, samples - start), tokens)
        yield {"input_ids": torch.randint(1000, 30_000, shape, generator=generator)}


def measure(program: graphc.Program, method: str, options: Namespace) -> Spent:
    """Calibrate and round in this process."""
    quantize = Quantize(calibration_method=method, smooth=0, bias_correction=False)
    data = {"calibration": lambda: texts(options.samples, options.tokens, options.batch)}
    before, clock, processor = peak_bytes(), time.perf_counter(), time.process_time()
    done = quantize.run(program, Context(program, data=data))
    spent = time.perf_counter() - clock, time.process_time() - processor
    zeros = [name for name in done.tensors() if name.endswith("_zero_point")]
    weights = [name for name in zeros if name.removesuffix("_zero_point") in done.tensors()]
    return Spent(len(zeros) - len(weights), before, peak_bytes(), *spent)


def measure_apart(method: str, options: Namespace) -> Spent | str:
    """Likewise in a process of its own; why not, if it failed."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("samples", "tokens", "batch", "layers", "width")]
    told, why = apart.run("benchmarks.calibration", ["--one", method, *sizes], options.limit)
    return why if told is None else Spent(**told)


def row(method: str, spent: Spent | str) -> list[str]:
    """A line of the table."""
    if isinstance(spent, str):
        return [method, spent, "", "", "", ""]
    sizes = [f"{size / 1e9:.2f}" for size in (spent.before, spent.peak)]
    return [method, str(spent.values), *sizes, f"{spent.seconds:.0f}", f"{spent.processor:.0f}"]


def claims(found: dict[str, Spent | str]) -> dict[str, bool]:
    """That each peak is below the limit."""
    said = {}
    for method, spent in found.items():
        if isinstance(spent, str):
            said[f"{method} comes to its end"] = False
        else:
            said[f"{method} peaks at {spent.peak / 1e9:.2f} GB, below {LIMIT / 1e9:.0f}"] = spent.peak < LIMIT
    return said


def options_of(words: Sequence[str] | None = None) -> Namespace:
    """The options on the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--limit", type=float, default=7200, help="seconds for a method")
    parser.add_argument("--one", choices=METHODS, help="this method in this process; prints JSON")
    parser.add_argument("--out", type=Path, default=Path("calibration"))
    return parser.parse_args(words)


def main() -> int:
    """Print the table; 1 if a claim does not hold."""
    options, console = options_of(), Console()
    if options.one:
        torch.set_num_threads(1)
        print(json.dumps(asdict(measure(bert(options.layers, options.width), options.one, options))))
        return 0
    found = {method: measure_apart(method, options) for method in METHODS}
    machine = environment()
    notes = [
        f"{options.samples} samples of {options.tokens} tokens in batches of {options.batch}; before: when captured",
        f"{machine['cpu']}, one thread, torch {machine['versions']['torch']}",
    ]
    rows = [row(method, spent) for method, spent in found.items()]
    return conclude("calibration", COLUMNS, rows, notes, claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
