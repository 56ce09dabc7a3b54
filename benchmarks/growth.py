"""Does find_axes() grow with the depth of a model, and no faster?

    python -m benchmarks.growth [LAYERS ...]

Llama with the shape of the 70B model at 20, 40, 80 and 160 layers, on the meta device. Each time is
the least processor time of several calls in one thread, taken as timeit does it (no garbage
collection within a call). Two limits are checked, and the exit code says whether they hold: the time
per layer is the same within 20 %, and 160 layers take at most 0.25 s.
"""

from __future__ import annotations

import argparse
import sys
import time
import timeit
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

import graphc
from benchmarks.analysis import large_llama
from graphc.measure.environment import environment

LAYERS = (20, 40, 80, 160)
SPREAD = 1.2
LIMIT_S, LIMIT_LAYERS = 0.25, 160


@dataclass(frozen=True)
class Growth:
    """Seconds of find_axes() at one depth."""

    layers: int
    nodes: int
    axes: int
    seconds: float

    @property
    def per_layer(self) -> float:
        """Milliseconds of a layer."""
        return 1000 * self.seconds / self.layers


def measure(layers: int, repeat: int = 15) -> Growth:
    """Capture a Llama of some depth and time its analysis."""
    case = large_llama(layers)
    program = graphc.capture(case.build(), (), case.inputs, dynamic=case.dynamic)
    axes = graphc.find_axes(program)
    times = timeit.repeat(lambda: graphc.find_axes(program), timer=time.process_time, number=1, repeat=repeat)
    return Growth(layers, len(program.graph.nodes), len(axes), min(times))


def limits(found: Sequence[Growth]) -> dict[str, bool]:
    """What is promised, and whether it holds."""
    rates = [growth.per_layer for growth in found]
    spread = max(rates) / min(rates)
    said = {f"time per layer differs by {spread - 1:.0%}, at most {SPREAD - 1:.0%}": spread <= SPREAD}
    for growth in found:
        if growth.layers == LIMIT_LAYERS:
            said[f"{LIMIT_LAYERS} layers in {growth.seconds:.3f} s, at most {LIMIT_S} s"] = growth.seconds <= LIMIT_S
    return said


def main() -> int:
    """Print the table; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", type=int, default=LAYERS, help="depths")
    depths = parser.parse_args().layers
    torch.set_num_threads(1)
    console = Console(width=120)
    console.print(environment())
    found = [measure(layers) for layers in depths]
    table = Table("layers", "nodes", "axes", "find_axes ms", "ms per layer")
    for growth in found:
        cells = (f"{growth.layers}", f"{growth.nodes}", f"{growth.axes}", f"{1000 * growth.seconds:.1f}")
        table.add_row(*cells, f"{growth.per_layer:.3f}")
    console.print(table)
    said = limits(found)
    for limit, holds in said.items():
        console.print(f"{limit}: {'holds' if holds else 'DOES NOT HOLD'}", markup=False)
    return 0 if all(said.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
