"""Random nets from their descriptions, with inputs and data that fit them.

A description is JSON, so that a recipe can carry it: ``{target: "benchmarks.fuzz.nets:net", kwargs: {...}}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.fuzz import image, nesting, tokens
from benchmarks.fuzz.blocks import Described, grow, project

FAMILIES = (image, nesting, tokens)
"""Modules whose blocks are known once they are imported."""

VOCABULARY = 17
INPUTS: Mapping[str, tuple[int, ...]] = {"image": (3, 8, 8), "vector": (10,), "tokens": (7, 8), "ids": (7,)}
"""Kinds of the first input, and its sizes without the batch."""
BATCH = 5


def sample(kind: str, batch: int = BATCH) -> Tensor:
    """An input."""
    if kind == "ids":
        return torch.randint(VOCABULARY, (batch, *INPUTS[kind]))
    return torch.randn(batch, *INPUTS[kind])


class Net(nn.Module):
    """Blocks one after the other, and a head.

    Args:
        kind: of the input.
        blocks: descriptions of the blocks.
        classes: outputs of the head; none without one.
        outputs: ``one`` tensor, a ``tuple`` or a ``dict`` with what the head reads.
        tied: the head has the embedding's weight.
        second: whether there is a second input, which is added to the first or masks it.
    """

    def __init__(
        self,
        kind: str,
        blocks: Sequence[Described],
        classes: int | None = None,
        outputs: str = "one",
        tied: bool = False,
        second: str | None = None,
    ) -> None:
        super().__init__()
        self.outputs, self.second = outputs, second
        self.embedding = nn.Embedding(VOCABULARY, 12) if kind == "ids" else None
        x = self.embed(sample(kind))
        self.types = nn.Embedding(2, x.shape[-1]) if second == "types" else None
        self.blocks = grow(blocks, x)
        x = self.blocks(x)
        self.tied = tied and self.embedding is not None
        self.fit = project(x, 12) if self.tied else None
        self.head = project(x, classes) if classes and not self.tied else None

    def embed(self, x: Tensor) -> Tensor:
        """Ids become vectors."""
        return x if self.embedding is None else self.embedding(x)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Any:
        x = self.embed(x)
        if self.types is not None:
            x = x + self.types(other)
        elif self.second == "mask":
            assert other is not None
            x = x * other.unsqueeze(-1).to(x.dtype)
        elif self.second == "added":
            x = x + other
        inner = self.blocks(x)
        y = inner
        if self.fit is not None and self.embedding is not None:
            y = self.fit(inner)
            y = F.linear(y.movedim(1, -1) if y.ndim == 4 else y, self.embedding.weight)
        elif self.head is not None:
            y = self.head(inner)
        if self.outputs == "tuple":
            return y, inner
        return {"logits": y, "inner": inner} if self.outputs == "dict" else y


def net(seed: int = 0, weights: str = "random", **described: Any) -> nn.Module:
    """The net of a description.

    Args:
        seed: of the weights.
        weights: ``random``; with some ``dead`` units; with units of very different ``scales``; ``frozen`` ones.
        described: arguments of ``Net``.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = Net(**described).eval()
        for name, value in [*made.named_parameters(), *made.named_buffers()]:
            _randomise(name, value)
            if weights == "dead" and value.ndim > 1:
                value[::3] = 0
            if weights == "scales" and value.ndim > 1:
                value *= torch.logspace(-2, 1, len(value)).view(-1, *[1] * (value.ndim - 1))
        for parameter in made.parameters():
            parameter.requires_grad_(weights != "frozen")
    return made


def _randomise(name: str, value: Tensor) -> None:
    """Biases, scales and statistics that are not all 0 or 1, so that a wrong one is seen."""
    if not value.is_floating_point() or value.ndim > 1:
        return
    if name.endswith(("running_var", "weight", "scale")):
        value.uniform_(0.5, 1.5)
    else:
        value.normal_(0, 0.3)


def inputs(kind: str, second: str | None, batch: int = BATCH, dtype: str = "float32") -> dict[str, Any]:
    """Example inputs as a recipe describes them."""
    shape = [batch, *INPUTS[kind]]
    whole = {"dtype": "int64", "high": VOCABULARY} if kind == "ids" else {"dtype": dtype}
    found: dict[str, Any] = {"x": {"shape": shape, **whole}}
    if second == "types":
        found["other"] = {"shape": shape[:2], "dtype": "int64"}
    elif second == "mask":
        found["other"] = {"shape": shape[:2], "dtype": "bool"}
    elif second == "added":
        found["other"] = {"shape": shape, "dtype": dtype}
    return found


def data(
    described: Mapping[str, Any], seed: int = 0, count: int = 2, batch: int = 6, labels: str = "classes"
) -> Iterator[dict[str, Any]]:
    """Batches of random inputs by name, with labels that fit the net's first output.

    Args:
        described: of the net, as ``net`` takes it.
        seed: of the numbers.
        count: batches.
        batch: samples in each.
        labels: ``classes``, with some of no class (``beyond``), ``values`` of the output's shape, or ``none``.
    """
    model = net(**described)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        made: dict[str, Any] = {}
        for name, spec in inputs(described["kind"], described.get("second"), batch).items():
            whole = spec["dtype"] in ("int64", "bool")
            value = torch.randint(0, spec.get("high", 2), spec["shape"], generator=generator)
            made[name] = (
                value.to(getattr(torch, spec["dtype"])) if whole else torch.randn(spec["shape"], generator=generator)
            )
        with torch.no_grad():
            given = model(**made)
        first = given["logits"] if isinstance(given, dict) else given[0] if isinstance(given, tuple) else given
        if labels in ("classes", "beyond"):
            tied = described.get("tied") and described["kind"] == "ids"
            dim = first.ndim - 1 if first.ndim != 4 or tied else 1
            shape = [size for at, size in enumerate(first.shape) if at != dim]
            made["labels"] = torch.randint(first.shape[dim] + (labels == "beyond"), shape, generator=generator)
        elif labels == "values":
            made["labels"] = torch.randn(first.shape, generator=generator)
        yield made
