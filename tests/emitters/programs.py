"""Programs that the tests of the emitters share, each also with half of every free axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import graphc
from tests import models


def half(program: graphc.Program, role: str | None = None) -> graphc.Program:
    """Every second unit of every free axis, or of those with a role."""
    axes = [a for a in graphc.find_axes(program) if a.pinned is None and (role is None or role in a.roles)]
    return graphc.slice(program, {a.name: range(0, a.size, 2) for a in axes}, note="half")


def language(build: Callable[..., Any], **options: Any) -> tuple[torch.nn.Module, graphc.Program]:
    model, inputs = build(**options)
    program = graphc.capture(model, (), inputs, dynamic={name: {0: "batch", 1: "seq"} for name in inputs})
    return model, program


@cache
def program(name: str) -> graphc.Program:
    """``residual``, ``bert``, ``gpt2``, ``nested``, or one of them with ``/2`` at the end."""
    if name.endswith("/2"):
        return half(program(name.removesuffix("/2")))
    if name == "residual":
        return models.residual()
    if name == "nested":
        args, kwargs = models.nested()
        return graphc.capture(models.seeded(models.Nested), args, kwargs)
    return language({"bert": models.tiny_bert, "gpt2": models.tiny_gpt2}[name])[1]
