"""Latency targets: networks pruned to 75 % and 50 % of their dense latency, beside uniform ratios at that same latency.

    python -m benchmarks.latency_targets --out benchmarks/results

Each network is pruned by ``constraints: {latency_ms: ...}``, and by one ``pruning_ratio`` for all axes with
``round_to: 8``, at two ratios on either side of that latency or near it; what uniform pruning keeps at the very latency
follows on the straight line through these. All are emitted as ONNX and run in turns with the dense network (on
onnxruntime, CPU, batch 1, one thread; medians of processor time). Exit code 1 if one is missed by more than 5 %, or
fewer MACs are kept than by uniform pruning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from graphc.passes import PruneFilters, PruneHeads, PruneWidth
from graphc.passes.prune import PruneAxes
from rich.console import Console

import graphc
from benchmarks.quality.study import conclude
from graphc.ir.program import Program
from graphc.measure import cost
from graphc.measure.environment import environment
from graphc.measure.table_file import open_table
from graphc.measure.whole import whole_ms, write_whole
from graphc.pipeline.base import Context

COLUMNS = ("network", "target", "dense ms", "ms", "of dense", "off", "MACs kept", "uniform at that latency", "ratios")
TARGETS = (0.75, 0.5)
WITHIN = 0.05


@dataclass(frozen=True)
class Network:
    """A network and the passes that prune it, in their order.

    Attributes:
        make: the network.
        passes: heads first, where there are some.
        heads: the share of what is to be saved that these save; the rest is the width's.
    """

    make: Callable[[], Program]
    passes: tuple[type[PruneAxes], ...]
    heads: float = 0.0


def vision(name: str) -> Program:
    """A torchvision network, untrained."""
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    return graphc.capture(model, (torch.randn(1, 3, 224, 224),), dynamic={})


def minilm() -> Program:
    """The shape of all-MiniLM-L6-v2 at (1, 128), untrained."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    ids = torch.randint(0, config.vocab_size, (1, 128))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return graphc.capture(BertModel(config, add_pooling_layer=False).eval(), (), inputs, dynamic={})


NETWORKS = {
    "resnet50": Network(lambda: vision("resnet50"), (PruneFilters,)),
    "mobilenet_v2": Network(lambda: vision("mobilenet_v2"), (PruneFilters,)),
    "minilm": Network(minilm, (PruneHeads, PruneWidth), heads=0.65),
    "vit_b_16": Network(lambda: vision("vit_b_16"), (PruneHeads, PruneWidth), heads=0.35),
}


@dataclass(frozen=True)
class Row:
    """One network at one target; MACs as shares of the dense network's."""

    name: str
    target: float
    dense_ms: float
    ms: float
    macs: float
    uniform: float
    ratios: Mapping[float, tuple[float, float]]

    @property
    def off(self) -> float:
        """How far the latency is from the target."""
        return self.ms / self.dense_ms / self.target - 1

    def cells(self) -> list[str]:
        """As the table shows it."""
        ratios = "; ".join(f"{r:.3f}: {ms / self.dense_ms:.1%}, {m:.1%}" for r, (ms, m) in self.ratios.items())
        shares = (f"{x:.1%}" for x in (self.ms / self.dense_ms, self.off, self.macs, self.uniform))
        return [self.name, f"{self.target:.0%}", f"{self.dense_ms:.2f}", f"{self.ms:.2f}", *shares, ratios]


def by_latency(network: Network, program: Program, target: float, table: Path, console: Console) -> Program:
    """Pruned to a share of its latency; heads first, where there are two kinds of axes."""
    reached = 1.0
    for number, kind in enumerate(network.passes, 1):
        share = target if number == len(network.passes) else 1 - network.heads * (1 - target)
        told: dict[str, object] = {}
        item = kind(constraints={"latency_ms": f"{100 * share / reached:.4f}%"}, latency_table=str(table))
        context = Context(program, record=lambda name, facts, told=told: told.update(facts))  # type: ignore[misc] # bound
        program = item.run(program, context)
        found = told["latency_target"]
        assert isinstance(found, dict)
        reached *= found["measured_ms"] / found["before_ms"]
        console.print(f"{item.title}: {told['says']}", markup=False)
    return program


def uniformly(network: Network, program: Program, ratio: float) -> Program:
    """Pruned by one ratio."""
    for kind in network.passes:
        program = kind(pruning_ratio=ratio, round_to=8 if kind is not PruneHeads else 1).run(program, Context(program))
    return program


def row_of(name: str, target: float, work: Path, repeat: int, console: Console) -> Row:
    """Prune both ways and measure."""
    network, table = NETWORKS[name], work / f"{name}.json"
    program = network.make()
    dense = write_whole(program, work / f"{name}.onnx")
    own = by_latency(network, program, target, table, console)
    path = write_whole(own, work / f"{name}_{target}.onnx")
    whole = cost(program).macs
    dense_ms, ms = whole_ms([dense, path], repeat=repeat)
    found: dict[float, tuple[float, float]] = {}
    low, high = guesses(network, program, table, ms / dense_ms)
    for ratio in (low, high):
        other = uniformly(network, program, ratio)
        first, second = whole_ms([dense, write_whole(other, work / f"{name}_uniform.onnx")], repeat=repeat)
        found[ratio] = (second / first * dense_ms, cost(other).macs / whole)
    (a_ms, a), (b_ms, b) = found.values()
    uniform = a + (b - a) * (ms - a_ms) / (b_ms - a_ms)
    return Row(name, target, dense_ms, ms, cost(own).macs / whole, uniform, found)


def guesses(network: Network, program: Program, table: Path, share: float) -> tuple[float, float]:
    """Ratios whose predicted latency is somewhat above and below a share of the dense network's."""
    known = open_table(table)
    whole = known.predict(known.take_apart(program)).ms

    def ratio(wanted: float) -> float:
        low, high = 0.0, 0.95
        for _ in range(7):
            middle = (low + high) / 2
            slow = known.predict(known.take_apart(uniformly(network, program, middle))).ms > wanted * whole
            low, high = (middle, high) if slow else (low, middle)
        return high

    return ratio(share * 1.04), ratio(share * 0.96)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--targets", nargs="+", type=float, default=list(TARGETS))
    parser.add_argument(
        "--work", type=Path, default=Path("latency_tables"), help="where tables and ONNX files are kept"
    )
    parser.add_argument("--repeat", type=int, default=20, help="timed runs of whole networks")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    console = Console(width=160)
    rows = []
    for name in given.networks:
        for target in given.targets:
            rows.append(row_of(name, target, given.work, given.repeat, console))
            console.print(rows[-1].cells(), markup=False)
    here = environment()
    notes = [
        f"{here['cpu']}, {here['platform']}, onnxruntime {here['versions']['onnxruntime']}, torch "
        f"{here['versions']['torch']}, 1 thread, batch 1; untrained weights, importance l2, ranking local; medians of "
        f"{given.repeat} runs in turns, of processor time; `python -m benchmarks.latency_targets`",
        "ratios: uniform ratios that were measured, each with its latency and MACs as shares of the dense network's.",
    ]
    claims = {}
    for row in rows:
        claims[f"{row.name} at {row.target:.0%}: within {WITHIN:.0%} of the target"] = abs(row.off) <= WITHIN
        claims[f"{row.name} at {row.target:.0%}: no fewer MACs than uniform"] = row.macs >= row.uniform
    return conclude("latency_targets", COLUMNS, [r.cells() for r in rows], notes, claims, given.out, console)


if __name__ == "__main__":
    sys.exit(main())
