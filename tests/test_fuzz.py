"""A slice of the fuzzing, and the oracle itself: it sees what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from graphc.passes import PruneFilters
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import graphc
from benchmarks.fuzz import byhand, campaign, oracle
from benchmarks.fuzz.blocks import BLOCKS
from benchmarks.fuzz.cases import recipe_of
from benchmarks.fuzz.nets import data, net
from benchmarks.fuzz.oracle import Outcome, judge
from benchmarks.fuzz.recipes import PASSES, recipes
from benchmarks.fuzz.schema import from_schema
from graphc.ir.edit import rebuild
from graphc.ir.program import Program
from graphc.pipeline.base import known_passes
from graphc.pipeline.checked import options
from tests import models

SLICE = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@SLICE
@given(recipes(emit=["m/"]))
def test_random_recipes_end_proven_or_refused(recipe: dict[str, Any]) -> None:
    outcome = judge(recipe)
    note(outcome.detail)
    assert outcome.kind in ("verified", "refused"), outcome.why
    assert not outcome.unproven, outcome.detail


def test_a_recipe_with_all_kinds_of_files() -> None:
    outcome = judge(_recipe())
    assert outcome.kind == "verified", outcome.detail
    assert outcome.checks == {"sliced": 1, "files": 6}


def test_a_file_that_is_not_the_program_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = graphc.load
    monkeypatch.setattr(graphc, "load", lambda path: _moved(right(path)))
    outcome = judge(_recipe(emit=["m/"]))
    assert outcome.kind == "wrong"
    assert "differs by" in outcome.why


def test_a_cut_that_keeps_the_wrong_unit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PruneFilters.run
    monkeypatch.setattr(PruneFilters, "run", lambda self, *given: _swapped(right(self, *given)))
    outcome = judge(_recipe(emit=["m/"]))
    assert outcome.kind == "wrong"
    assert outcome.why.startswith("prune-filters")


def test_another_exception_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PruneFilters, "run", lambda self, *given: 1 / 0)
    outcome = judge(_recipe())
    assert outcome.kind == "crashed"
    assert "ZeroDivisionError" in outcome.why


def test_a_net_that_is_captured_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "net", lambda **described: net(**{**described, "seed": 1}))
    assert judge(_recipe()).kind == "wrong"


def test_masking_by_hand_is_masking() -> None:
    program = graphc.capture(models.Residual(), (torch.randn(4, 3, 8, 8),))
    axes = [axis for axis in graphc.find_axes(program) if axis.pinned is None]
    kept = {axis.name: list(range(1, axis.size)) for axis in axes}
    found = byhand.masked(_scattered(program), graphc.slice(_scattered(program), kept))
    assert found is not None
    assert byhand.gap(found, graphc.mask(_scattered(program), kept), {}) < 1e-6


@pytest.mark.parametrize("kind", known_passes())
def test_values_of_a_schema_are_what_the_options_take(kind: str) -> None:
    adapters = options(known_passes()[kind])
    properties = PASSES[kind]["properties"]
    every = st.fixed_dictionaries({name: from_schema(properties[name]) for name in adapters if name != "name"})

    @settings(SLICE, max_examples=10)
    @given(every)
    def check(values: dict[str, Any]) -> None:
        for name, value in values.items():
            adapters[name].validate_python(value)

    check()


def test_a_seed_is_always_the_same_recipe() -> None:
    first = recipe_of(7)
    assert first == recipe_of(7) != recipe_of(8)
    assert json.loads(json.dumps(first)) == first


def test_data_fits_every_net() -> None:
    described = {
        "kind": "image",
        "blocks": [{"op": "conv", "width": 4}, {"op": "gather", "kind": "mean"}],
        "classes": 3,
    }
    batch = next(iter(data(described, batch=6)))
    assert batch["labels"].shape == (6,)
    assert net(**described)(batch["x"]).shape == (6, 3)
    assert {"attention", "mixture", "transposed"} <= BLOCKS.keys()


@pytest.mark.parametrize(("kind", "code"), [("verified", 0), ("refused", 0), ("crashed", 1), ("wrong", 1)])
def test_the_command_says_what_came(kind: str, code: int, tmp_path: Path) -> None:
    kinds = ["verified", "verified", kind]
    lines = [json.dumps([{"number": i}, asdict(Outcome(k, ["quantize"]))]) for i, k in enumerate(kinds)]
    (tmp_path / "kept.jsonl").write_text("\n".join(lines) + "\n")
    kept = ["--recipes", "3", "--kept", str(tmp_path / "kept.jsonl"), "--out", str(tmp_path)]
    assert campaign.main(kept) == code
    assert f"{kinds.count('verified')} verified" in (tmp_path / "fuzz.md").read_text()


def _recipe(emit: list[str] | None = None) -> dict[str, Any]:
    described = {
        "kind": "image",
        "blocks": [
            {"op": "conv", "width": 6},
            {"op": "norm", "kind": "batch"},
            {"op": "act", "kind": "relu"},
            {"op": "gather", "kind": "mean"},
        ],
        "classes": 3,
    }
    return {
        "model": {"target": "benchmarks.fuzz.nets:net", "kwargs": described},
        "example_inputs": {"x": {"shape": [5, 3, 8, 8]}},
        "dynamic": {"x": {0: "batch"}},
        "passes": [{"type": "prune-filters", "pruning_ratio": 0.5}],
        "emit": emit or ["m.onnx", "m/", "m.pt2"],
        "bench": None,
    }


def _moved(program: Program) -> Program:
    """The program with one weight that is another."""
    return rebuild(program, tensors={"head.bias": torch.nn.Parameter(program.tensors()["head.bias"] + 0.1)})


def _swapped(program: Program) -> Program:
    """The program with two filters that have changed their places, and nothing else."""
    weight = program.tensors()["blocks.0.conv.weight"].detach()
    return rebuild(program, tensors={"blocks.0.conv.weight": torch.nn.Parameter(weight.flip(0))})


def _scattered(program: Program) -> Program:
    """The program with values that differ from each other."""
    generator = torch.Generator().manual_seed(0)
    values = {name: value for name, value in program.tensors().items() if value.is_floating_point()}
    made = {name: 1 + torch.rand(value.shape, generator=generator) for name, value in values.items()}
    return rebuild(
        program,
        tensors={
            name: torch.nn.Parameter(made[name]) if isinstance(value, torch.nn.Parameter) else made[name]
            for name, value in values.items()
        },
    )
