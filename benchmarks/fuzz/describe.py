"""Strategies of nets: descriptions that ``nets.net`` turns into modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.blocks import ACTIVATIONS

WIDTHS = st.integers(2, 14)
NAMES = tuple(ACTIVATIONS)
Description = dict[str, Any]


def op(name: str, **options: st.SearchStrategy[Any]) -> st.SearchStrategy[Description]:
    """A block of one kind."""
    return st.fixed_dictionaries({"op": st.just(name), **options})


def one_of(*names: str) -> st.SearchStrategy[str]:
    """One of some names."""
    return st.sampled_from(names)


PLAIN = [
    op("dense", width=WIDTHS, bias=st.booleans()),
    op("dense", width=WIDTHS),
    op("act", kind=st.sampled_from([*NAMES, "prelu"])),
    op("act", kind=one_of("relu", "gelu", "silu", "relu_")),
    op("norm", kind=one_of("batch", "layer", "rms", "group", "instance")),
    op(
        "split",
        how=one_of("chunk", "uneven", "unflatten", "split", "narrow"),
        join=one_of("cat", "add", "mul", "first"),
    ),
    op("shuffle", groups=st.sampled_from([2, 3])),
    op("gated", hidden=WIDTHS, fused=st.booleans()),
    op("mlp", hidden=WIDTHS, kind=one_of("relu", "gelu", "tanh")),
    op("mlp", hidden=WIDTHS, kind=one_of("relu", "gelu", "tanh")),
    op("dropout"),
    op("tied"),
    op("arithmetic", kind=one_of("shift", "clamp", "where", "mean")),
]
"""Blocks of any rank."""

GROUPS = one_of("dense", "grouped", "depthwise", "dense")
IMAGE_KEEPING = [
    op("conv", width=WIDTHS, kernel=st.sampled_from([1, 3]), groups=GROUPS, bias=st.booleans()),
    op(
        "conv",
        width=WIDTHS,
        kernel=st.sampled_from([3, 5]),
        dilation=st.sampled_from([1, 2]),
        padding=one_of("zeros", "reflect", "circular"),
    ),
    op("conv", width=WIDTHS, groups=GROUPS),
    op("transposed", width=WIDTHS, groups=GROUPS, double=st.just(False)),
    op("pool", kind=one_of("max", "avg")),
    op("squeeze", hidden=st.integers(1, 6)),
]
"""Blocks that leave the size of an image."""

IMAGE_CHANGING = [
    op("conv", width=WIDTHS, stride=st.just(2), groups=GROUPS),
    op("pool", kind=one_of("max", "avg"), halve=st.just(True)),
    op("transposed", width=WIDTHS, groups=GROUPS),
    op("resize", kind=one_of("shuffle", "unshuffle", "nearest", "bilinear", "pad")),
]

ATTENTION = [
    op(
        "attention",
        heads=st.sampled_from([1, 2, 2, 3, 4, 4]),
        size=st.integers(2, 5),
        shared=st.sampled_from([1, 1, 2]),
        kind=one_of("sdpa", "eager"),
        fused=st.booleans(),
        causal=st.booleans(),
    ),
    op("multihead", heads=st.sampled_from([2, 3, 4])),
    op("encoder", heads=st.sampled_from([2, 3]), hidden=WIDTHS, layers=st.integers(2, 3), first=st.booleans()),
]

TOKENS = [
    *ATTENTION,
    *ATTENTION,
    op("stack", hidden=WIDTHS, layers=st.integers(2, 4)),
    op("positions"),
    op("tokenconv", width=WIDTHS, groups=one_of("dense", "depthwise")),
]
"""Blocks that leave the number of tokens."""


def nested(leaves: list[st.SearchStrategy[Description]]) -> st.SearchStrategy[Description]:
    """A block, or one that has others in it."""

    def around(inner: st.SearchStrategy[Description]) -> st.SearchStrategy[Description]:
        body = st.lists(inner, min_size=1, max_size=2)
        return st.one_of(
            op("residual", body=body, scale=one_of("none", "parameter", "number")),
            op("residual", body=body),
            op(
                "branches",
                bodies=st.lists(body, min_size=2, max_size=3),
                join=one_of("cat", "add", "mul", "stack", "max"),
            ),
            op("shared", body=body, times=st.integers(2, 3)),
            op("mixture", bodies=st.lists(body, min_size=2, max_size=3)),
        )

    leaf = st.one_of(leaves)
    return st.one_of(leaf, leaf, around(leaf), around(st.one_of(leaf, leaf, leaf, around(leaf))))


IMAGE = st.one_of(
    nested([*IMAGE_KEEPING, *IMAGE_KEEPING, *PLAIN]), nested([*IMAGE_KEEPING, *PLAIN]), st.one_of(IMAGE_CHANGING)
)
TOKEN = nested([*TOKENS, *PLAIN])
FIXED = [op("mix", hidden=WIDTHS), op("recurrent", width=WIDTHS, kind=one_of("lstm", "gru"))]
"""Blocks for tokens of a fixed number."""
VECTOR = nested(PLAIN)


@st.composite
def blocks(draw: st.DrawFn, kind: str, fixed: bool) -> list[Description]:
    """Blocks for a kind of input; ``fixed``: the number of tokens does not vary."""
    if kind == "image":
        found = [draw(st.one_of(IMAGE_KEEPING[:3])), draw(PLAIN[2]), *draw(st.lists(IMAGE, min_size=1, max_size=3))]
        then = draw(one_of("vector", "tokens", "vector", "image"))
        if then == "vector":
            found.append(draw(op("gather", kind=one_of("mean", "max", "adaptive", "literal", "flatten"))))
        if then == "tokens":
            found.append({"op": "totokens"})
    elif kind == "vector":
        found = draw(st.lists(VECTOR, min_size=1, max_size=3))
        then = draw(one_of("vector", "vector", "vector", "image"))
        if then == "image":
            found += [draw(op("picture", width=WIDTHS)), *draw(st.lists(IMAGE, min_size=1, max_size=2))]
    else:
        found, then = [], "tokens"
    if then == "tokens":
        found += draw(st.lists(TOKEN, min_size=1, max_size=3))
        if draw(st.integers(0, 5)) == 0:
            found.append({"op": "classtoken"})
        elif fixed and draw(st.integers(0, 4)) == 0:
            found.append(draw(st.one_of(FIXED)))
        if draw(st.booleans()):
            found.append(draw(op("read", kind=one_of("mean", "max", "first", "last", "weighted"))))
            found += draw(st.lists(VECTOR, max_size=1))
    return found


@st.composite
def nets(draw: st.DrawFn) -> tuple[Description, dict[str, dict[int, str]] | None]:
    """Arguments of ``nets.net``, and which dims vary."""
    kind = draw(one_of("image", "image", "tokens", "ids", "vector"))
    length = kind in ("tokens", "ids") and draw(st.booleans())
    second = {"tokens": [None, None, "mask", "added"], "ids": [None, None, "types", "mask"], "vector": [None, "added"]}
    described: dict[str, Any] = {
        "seed": draw(st.integers(0, 999)),
        "kind": kind,
        "blocks": draw(blocks(kind, not length)),
        "classes": draw(st.sampled_from([4, 4, 6, None])),
        "outputs": draw(one_of("one", "one", "tuple", "dict")),
        "weights": draw(one_of(*["random"] * 12, "dead", "scales", "scales", "frozen")),
    }
    other = draw(st.sampled_from(second.get(kind, [None])))
    if other is not None:
        described["second"] = other
    if kind == "ids" and draw(st.booleans()):
        described["tied"] = True
    return described, draw(_dynamic(other is not None, length))


def _dynamic(second: bool, length: bool) -> st.SearchStrategy[dict[str, dict[int, str]] | None]:
    dims = {0: "batch", 1: "length"} if length else {0: "batch"}
    every: Mapping[str, Any] = {"x": dims, "other": dims} if second else {"x": dims}
    batch = st.just({name: dict(value) for name, value in every.items()})
    return batch if length else st.one_of(batch, batch, st.none())
