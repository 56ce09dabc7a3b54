"""Time of find_axes() and slice(), and a Llama of the 70B shape on the meta device.

    python -m benchmarks.analysis [--quick]

Each time is the median of several calls in one thread. The limits (50 ms for ResNet-50, 100 ms and
2 GB for the Llama of 80 layers) are checked; the exit code says whether they hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import graphc
from benchmarks.models import Case, cases
from benchmarks.soundness import half
from graphc.measure.environment import environment
from graphc.measure.memory import peak_bytes

LIMITS_MS = {"resnet50": 50.0, "llama 70B shape": 100.0}
LIMIT_BYTES = 2_000_000_000


def median_ms(call: Callable[[], Any], repeat: int) -> float:
    """Median milliseconds of a call."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def large_llama(layers: int = 80) -> Case:
    """Llama with the shape of the 70B model; no weight takes memory on the meta device."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        intermediate_size=28672,
        vocab_size=128256,
    )

    def build() -> torch.nn.Module:
        with torch.device("meta"):
            return transformers.LlamaForCausalLM(config)

    inputs = {"input_ids": torch.zeros(3, 7, dtype=torch.int64, device="meta")}
    return Case("llama 70B shape", build, inputs, {"input_ids": {0: "batch", 1: "sequence"}}, {})


def measure(case: Case, repeat: int) -> tuple[str, ...]:
    """One row: nodes, free axes, milliseconds of find_axes and of slice, seconds of capture."""
    start = time.perf_counter()
    program = graphc.capture(case.build(), (), case.inputs, dynamic=case.dynamic)
    seconds = time.perf_counter() - start
    axes = graphc.find_axes(program)
    kept = half([axis for axis in axes if axis.pinned is None and not axis.mixed])
    find = median_ms(lambda: graphc.find_axes(program), repeat)
    cut = median_ms(lambda: graphc.slice(program, kept), max(1, repeat // 5))
    return case.name, str(len(program.graph.nodes)), str(len(kept)), f"{find:.1f}", f"{cut:.0f}", f"{seconds:.1f}"


def main() -> int:
    """Print the table; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, ResNet-50 and the Llama only")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    console = Console(width=120)
    console.print(environment())
    large = large_llama()
    rows = [measure(large, 5 if quick else 11)]
    peak = peak_bytes()
    rows += [measure(case, 5 if quick else 21) for case in cases() if not quick or case.name == "resnet50"]
    table = Table("model", "nodes", "free axes", "find_axes ms", "slice ms", "capture s")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"peak memory of the process after {large.name}: {peak / 1e9:.2f} GB")
    late = [row[0] for row in rows if float(row[3]) > LIMITS_MS.get(row[0], float("inf"))]
    if peak > LIMIT_BYTES:
        late.append(f"{large.name}: memory")
    console.print(f"over the limit: {', '.join(late)}" if late else "all limits hold")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
