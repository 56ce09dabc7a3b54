"""A pass, a rule, an emitter, a loss and a hook of somebody else's, through the public API and entry points alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import graphc
from graphc.pipeline.base import find_pass
from graphc.rules import RULES
from graphc.rules.table import load_installed_rules

SOURCE = '''
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

import graphc
from graphc.passes import Actions, Hook, OfOutputs

# An op of one's own, and its rule in one line.
library = torch.library.Library("outsider", "DEF")
library.define("gate(Tensor x, Tensor w) -> Tensor")
torch.library.impl("outsider::gate", "CompositeExplicitAutograd", lib=library)(lambda x, w: x * w.sigmoid())
torch.library.register_fake("outsider::gate", lambda x, w: torch.empty_like(x), lib=library)
graphc.rule(torch.ops.outsider.gate.default, "... c, c -> ... c")


def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x, w = ctx.saved_tensors
    s = w.sigmoid()
    return gradient * s, (gradient * x * s * (1 - s)).sum(0)


torch.library.register_autograd(
    "outsider::gate", backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs), lib=library
)


class Gated(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 10)
        self.gate = torch.nn.Parameter(torch.randn(10))
        self.last = torch.nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.ops.outsider.gate(self.first(x), self.gate))


@dataclass(frozen=True, kw_only=True)
class DropUnit(graphc.Pass):
    """Remove one unit of every free axis."""

    type: ClassVar[str] = "drop-unit"
    unit: Annotated[int, Field(ge=0, description="Which one.")] = 0

    def run(self, program: graphc.Program, context: graphc.Context) -> graphc.Program:
        free = [a for a in graphc.find_axes(program) if a.pinned is None and not a.mixed]
        return graphc.slice(program, {a: [i for i in range(a.size) if i != self.unit] for a in free})


@dataclass(frozen=True, kw_only=True)
class NumpyEmitter(graphc.Emitter):
    """Weights of a two-layer net as .npz; runs them in numpy."""

    suffix: ClassVar[str] = ".npz"

    def write(self, program: graphc.Program, path: Any) -> None:
        np.savez(path, **{k: v.detach().numpy() for k, v in program.tensors().items()})

    def open(self, program: graphc.Program, path: Any) -> Any:
        w = np.load(path, allow_pickle=False)

        def run(args: Any, kwargs: Any) -> torch.Tensor:
            (x,) = [*args, *kwargs.values()]
            hidden = (x.numpy() @ w["first.weight"].T + w["first.bias"]) / (1 + np.exp(-w["gate"]))
            return torch.from_numpy(hidden @ w["last.weight"].T + w["last.bias"])

        return run


@dataclass(frozen=True, kw_only=True)
class Huber(OfOutputs):
    """Smooth L1 distance of the logits."""

    type: ClassVar[str] = "huber"

    def __call__(self, seen: Any) -> torch.Tensor:
        return torch.nn.functional.smooth_l1_loss(seen.student[0], seen.teacher[0])


@dataclass(frozen=True, kw_only=True)
class Clamp(Hook):
    """Weights stay between -1 and 1."""

    type: ClassVar[str] = "clamp"

    def start(self, program: graphc.Program) -> Actions:
        return Actions(after=lambda step, steps: [p.clamp_(-1, 1) for p in program.parameters()])


def batches() -> list[torch.Tensor]:
    return list(torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(0)))
'''

ENTRY_POINTS = """
[graphc.passes]
drop-unit = outsider:DropUnit

[graphc.rules]
outsider = outsider

[graphc.emitters]
.npz = outsider:NumpyEmitter
"""


@pytest.fixture(scope="module")
def outsider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A package installed beside graphc: one module and its entry points."""
    site = tmp_path_factory.mktemp("site")
    (site / "outsider.py").write_text(SOURCE)
    info = site / "outsider-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path.insert(0, str(site))
    load_installed_rules.cache_clear()
    yield site
    sys.path.remove(str(site))
    load_installed_rules.cache_clear()


def test_all_three_in_one_recipe(outsider: Path, tmp_path: Path) -> None:
    recipe = {
        "model": {"target": "outsider:Gated"},
        "example_inputs": {"x": {"shape": [4, 6]}},
        "passes": [{"type": "drop-unit", "unit": 2}],
        "emit": ["weights.npz"],
        "bench": None,
    }
    done = graphc.compile(recipe, output_dir=tmp_path)
    assert tuple(done.program.tensors()["gate"].shape) == (9,)
    assert torch.ops.outsider.gate.default in RULES
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["artifacts"][0]["kind"] == ".npz"
    assert report["passes"][0]["facts"]["options"] == {"unit": 2}
    masked = graphc.mask(done.original, {"first.out": [i for i in range(10) if i != 2]})
    x = torch.randn(7, 6)
    assert torch.allclose(done.program(x), masked(x), atol=1e-6)


def test_its_options_are_checked_like_any(outsider: Path) -> None:
    kind = find_pass("drop-unit")
    with pytest.raises(graphc.GraphError, match="unit"):
        kind(unit=-1)  # type: ignore[call-arg] # the class is found at run time
    with pytest.raises(graphc.GraphError, match="no pass is called 'drop-units'"):
        find_pass("drop-units")


def test_its_loss_and_hook_take_part_in_a_training(outsider: Path) -> None:
    pytest.importorskip("accelerate", reason="training needs the extra `train`")
    distill = {
        "type": "distill",
        "epochs": 3,
        "learning_rate": 0.5,
        "losses": [{"type": "outsider:Huber", "weight": 2.0}],
        "during": [{"type": "outsider:Clamp"}],
    }
    recipe = {
        "model": {"target": "outsider:Gated"},
        "example_inputs": {"x": {"shape": [4, 6]}},
        "data": {"train": {"target": "outsider:batches"}},
        "passes": [{"type": "drop-unit"}, distill],
        "bench": None,
    }
    done = graphc.compile(recipe)
    assert max(float(p.detach().abs().max()) for p in done.program.parameters()) == 1.0
    assert done.report["passes"][1]["facts"]["training"]["steps"] == 12
    recipe["passes"][1]["losses"] = [{"type": "outsider:Gated"}]
    with pytest.raises(graphc.GraphError, match="is no loss"):
        graphc.compile(recipe)
