"""Metrics: what a program is worth on data, by name or as a target."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from graphc.errors import GraphError, RecipeError, nearest
from graphc.ir.program import Program
from graphc.measure.fidelity import shared_outputs
from graphc.pipeline.batches import Batch, batches, taken_by
from graphc.pipeline.objective import IGNORED, logits, rows
from graphc.pipeline.targets import find_function, guarded

Function = Callable[[Program, Iterable[Any]], float]

SMALLER_IS_BETTER = frozenset({"perplexity"})
LARGEST = math.log(1e300)
"""Of what is no number after ``exp``."""


class Measure(Protocol):
    """A built-in metric: programs, batches and what its name says beside (the k of top-k) to a number."""

    def __call__(self, program: Program, loader: Iterable[Any], original: Program | None) -> float:
        """The figure."""


@dataclass(frozen=True)
class Metric:
    """A figure of a program on data.

    Attributes:
        name: in recipes.
        function: takes a program and batches.
        greater_is_better: False for perplexity; a target says so by an attribute of this name.
    """

    name: str
    function: Function
    greater_is_better: bool = True

    def __call__(self, program: Program, loader: Iterable[Any]) -> float:
        """The figure.

        Raises:
            GraphError: it is not a finite number.
        """
        found = self.function(program, loader)
        try:
            value = float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"the metric {self.name} gives a {type(found).__name__}"
            raise GraphError(what, where="metric", why=str(error), hint="it must give one number") from error
        if not math.isfinite(value):
            hint = "look at the data and at the outputs of the program on it"
            raise GraphError(f"the metric {self.name} is {value}", where="metric", hint=hint)
        return value

    def drop(self, reference: float, value: float) -> float:
        """How much worse a value is than a reference; negative if it is better."""
        return reference - value if self.greater_is_better else value - reference


def accuracy(program: Program, loader: Iterable[Any], original: Program | None = None, k: int = 1) -> float:
    """Share of labels, from 0 to 1, that are among the k greatest logits; labels of -100 do not count."""
    right = total = 0
    for found, labels in _answers(program, loader, "accuracy"):
        right += int((found.topk(min(k, found.shape[1]), 1).indices == labels[:, None]).sum())
        total += len(labels)
    return right / max(1, total)


def f1(program: Program, loader: Iterable[Any], original: Program | None = None) -> float:
    """Macro F1: the mean, over classes in labels or answers, of ``2 TP / (2 TP + FP + FN)``."""
    hits = sizes = torch.zeros(0)
    for found, labels in _answers(program, loader, "f1"):
        classes, guess = found.shape[1], found.argmax(1)
        counts = [x.bincount(minlength=classes).double() for x in (labels[guess == labels], guess, labels)]
        hits = counts[0] + (hits if len(hits) else 0)
        sizes = counts[1] + counts[2] + (sizes if len(sizes) else 0)
    return float((2 * hits / sizes)[sizes > 0].mean())


def perplexity(program: Program, loader: Iterable[Any], original: Program | None = None) -> float:
    """``exp`` of the mean negative log-likelihood of the next token; less is better.

    Logits ``[batch, tokens, vocabulary]`` at t predict the label at t + 1, as in Hugging Face's causal
    models: labels are the input ids, with -100 where nothing counts.
    """
    total = count = 0.0
    with torch.no_grad():
        for batch in batches(program, loader):
            found, labels = logits(program(*batch.args, **batch.kwargs)), _labels(batch, "perplexity")
            if found.dim() != 3 or labels.shape != found.shape[:2]:
                why = f"outputs are {list(found.shape)}, labels {list(labels.shape)}"
                hint = "it is of logits [batch, tokens, vocabulary] and ids [batch, tokens]"
                raise RecipeError("perplexity does not fit the program", where="metric", why=why, hint=hint)
            flat, targets = rows(found[:, :-1], labels[:, 1:])
            total += float(F.cross_entropy(flat.float(), targets, ignore_index=IGNORED, reduction="sum"))
            count += int((targets != IGNORED).sum())
    mean = total / max(1, count)
    return math.exp(mean) if mean < LARGEST else math.inf


def cosine(program: Program, loader: Iterable[Any], original: Program | None = None) -> float:
    """Mean cosine, over samples, of the first output and the same of the program as captured; needs no labels."""
    if original is None:
        raise GraphError("the metric cosine needs the original program", where="metric")
    total = count = 0.0
    with torch.no_grad():
        for batch in batches(program, loader):
            args, kwargs = taken_by(original, batch)
            first, second = program(*batch.args, **batch.kwargs), original(*args, **kwargs)
            pairs = shared_outputs(program.contract, first, original.contract, second)
            real = [(x, y) for _, x, y in pairs if x.is_floating_point() and x.dim() and x.shape == y.shape]
            if not real:
                why = "no floating-point output of the program is one of the original, of the same shape"
                raise RecipeError("cosine finds nothing to compare", where="metric", why=why)
            own, other = (value.reshape(len(value), -1).double() for value in real[0])
            total += float(F.cosine_similarity(own, other).sum())
            count += batch.size
    return total / count


def _answers(program: Program, loader: Iterable[Any], what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits ``[n, classes]`` and labels ``[n]`` of every batch, without those that do not count."""
    with torch.no_grad():
        for batch in batches(program, loader):
            found, labels = rows(logits(program(*batch.args, **batch.kwargs)), _labels(batch, what))
            labels = labels.argmax(1) if labels.is_floating_point() else labels
            yield found[labels != IGNORED], labels[labels != IGNORED]


def _labels(batch: Batch, what: str) -> Tensor:
    if not isinstance(batch.labels, Tensor):
        raise RecipeError(f"{what} needs labels", where="metric", hint="give batches of (inputs, labels)")
    return batch.labels


METRICS: Mapping[str, Measure] = {"accuracy": accuracy, "cosine": cosine, "f1": f1, "perplexity": perplexity}


def find_metric(name: str, original: Program | None = None) -> Metric:
    """A metric by its name (``accuracy``, ``top-5``, ...), or by ``package.module:callable``.

    Args:
        name: of the metric. A target is called with a program and batches, and is better the greater it
            is, unless it has the attribute ``greater_is_better = False``.
        original: for metrics that compare with the program as captured.

    Raises:
        RecipeError: there is none.
    """
    if ":" in name:
        greater = getattr(find_function(name, "metric"), "greater_is_better", True)
        return Metric(name, guarded(name, "metric"), greater)
    top = re.fullmatch(r"top-([1-9]\d*)", name)
    if top is not None:
        return Metric(name, partial(accuracy, k=int(top[1])))
    if name not in METRICS:
        hint = f"{nearest(name, [*METRICS, 'top-5'])}; or write package.module:callable"
        raise RecipeError(f"no metric is called {name!r}", where="metric", hint=hint)
    return Metric(name, partial(METRICS[name], original=original), name not in SMALLER_IS_BETTER)
