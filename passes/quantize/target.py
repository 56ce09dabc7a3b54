"""Targets: what a runtime does with quantised numbers, read from data files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphc.errors import RecipeError, nearest
from graphc.measure.environment import cpu_flags

FOLDER = Path(__file__).parent / "targets"
Scheme = Literal["W8A8", "W8A8-dynamic", "W8A16", "W4A16", "float16", "bfloat16"]
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Schemes in which nothing becomes integers."""


class _Data(BaseModel):
    """Read from YAML; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Values(_Data):
    """How values between ops are kept."""

    dtype: Literal["uint8", "int8"]
    symmetric: bool

    @property
    def type(self) -> torch.dtype:
        """The integers."""
        return torch.uint8 if self.dtype == "uint8" else torch.int8


class Lesser(_Data):
    """Fewer bits for processors that have none of these flags."""

    flags: tuple[str, ...]
    bits: int


class Weights(_Data):
    """How many bits weights have, and on which processors fewer."""

    bits: int = 8
    without: tuple[Lesser, ...] = ()


class Rules(_Data):
    """What one scheme means to a target. Ops have the names of ATen, without overload.

    Attributes:
        products: products of a value and a weight whose kernel takes integers, and whether what it
            gives must become integers too, or may stay real.
        follow: ops with a kernel for integers, worth it where what they read are integers already.
        share: ops that only move numbers: what they give has the scale of what they read.
        absorb: ops that are nothing but the end of a range, and vanish in the op before them.
        group_sizes: blocks of a weight that may have a scale of their own.
        zero_points: may blocks of four bits have a zero point of their own too?
        note: what its users should know.
    """

    products: dict[str, Literal["integer", "real"]] = Field(default_factory=dict)
    follow: frozenset[str] = frozenset()
    share: frozenset[str] = frozenset()
    absorb: frozenset[str] = frozenset()
    group_sizes: tuple[int, ...] = ()
    zero_points: bool = False
    note: str = ""


class Target(_Data):
    """A runtime on a kind of device.

    Attributes:
        about: one line for people.
        values: of ops that take integers.
        weights: of products that take integers.
        runtime: ``onnxruntime`` if it can be measured here.
        schemes: what it can run.
    """

    name: str = ""
    about: str
    values: Values
    weights: Weights
    runtime: str | None = None
    schemes: Annotated[dict[Scheme, Rules], Field(min_length=1)]

    def weight_bits(self, scheme: Scheme) -> tuple[int, str]:
        """Bits of weights on this machine, and why."""
        if scheme in ("W4A16", "W8A16"):
            return int(scheme[1]), ""
        flags = cpu_flags()
        for lesser in self.weights.without:
            if not flags & set(lesser.flags):
                return lesser.bits, f"{lesser.bits}-bit weights: this processor has none of {', '.join(lesser.flags)}"
            found = ", ".join(sorted(flags & set(lesser.flags)))
            return self.weights.bits, f"{self.weights.bits}-bit weights: this processor has {found}"
        return self.weights.bits, ""

    def rules(self, scheme: Scheme) -> Rules:
        """What a scheme means here.

        Raises:
            RecipeError: the target cannot run it.
        """
        if scheme not in self.schemes:
            hint = f"it runs {', '.join(self.schemes)}"
            raise RecipeError(f"{self.name} cannot run the scheme {scheme}", where="scheme", hint=hint)
        return self.schemes[scheme]


def known_targets() -> list[str]:
    """Names of the targets that come with graphc."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_target(name: str) -> Target:
    """A target by its name, or from the user's own YAML file.

    Raises:
        RecipeError: there is none, or the file is not one; says what is wrong in it.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not os.path.isfile(path):
        hint = f"{nearest(name, known_targets())}; or give a .yaml file like those in graphc/passes/quantize/targets"
        raise RecipeError(f"no target is called {name!r}", where="target", hint=hint)
    try:
        return Target.model_validate({"name": path.stem, **yaml.safe_load(path.read_text(encoding="utf-8"))})
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RecipeError(f"the target {name!r} is not right", where=str(path), why=why) from error
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise RecipeError(f"the target {name!r} cannot be read", where=str(path), why=str(error)) from error
