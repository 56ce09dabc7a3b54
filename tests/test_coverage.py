"""A slice of the coverage benchmark, and its own reckoning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graphc
from benchmarks import coverage
from benchmarks.examine import Finding, examine, free_share, kind_of_pin
from benchmarks.models import Case
from graphc.coupling import analyze


@pytest.mark.parametrize(
    ("suite", "library", "name"),
    [
        ("torchvision", "torchvision", "mnasnet0_5"),
        ("timm", "timm", "mobilenetv3_small_050"),
        ("transformers", "transformers", "MixtralForCausalLM (sdpa)"),
    ],
)
def test_a_model_passes_every_stage(suite: str, library: str, name: str) -> None:
    pytest.importorskip(library, reason=f"pip install {library}")
    (case,) = coverage.suite(suite, name)
    stages: list[str] = []
    finding = examine(case, report=lambda now: stages.append(now.stage))
    assert coverage.result(finding) == "equal", finding
    assert finding.done
    assert finding.exact >= 9
    assert finding.free > 0.9
    assert stages == [
        *"capture analyse slice verify compare".split(),
        "cut all",
        "train",
        "capture again",
        "onnx",
        "done",
        "done",
    ]


class Half(nn.Module):
    """Two layers between pinned ends; the last one has an output of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8, bias=False), nn.Linear(8, 5, bias=False)
        self.alone = nn.Parameter(torch.randn(6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + x @ self.alone


def test_the_share_on_a_free_axis() -> None:
    program = graphc.capture(Half(), (torch.randn(4, 6),))
    assert free_share(analyze(program)) == pytest.approx((48 + 40) / (48 + 40 + 30))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("dim 1 of output logits", "dim 1 of output logits"),
        ("dim 1 of input input_ids", "dim 1 of input ..."),
        ("cut into [3, 5] across a boundary at split, a.py:3", "cut into across a boundary"),
        ("(a b) meets (c + d) without a common boundary at view", "dims meet without a common boundary"),
    ],
)
def test_kinds_of_pins(reason: str, kind: str) -> None:
    assert " ".join(kind_of_pin(reason).split()) == kind


def test_what_fails_is_found_out() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[: int(x.sum().item())]

    finding = examine(Case("broken", Broken, {"x": torch.ones(3, 4)}, {"x": {0: "batch"}}, {"batch": 5}))
    assert coverage.result(finding) == "refused"
    assert "torch.export cannot trace" in finding.refused


FOUND = Finding("a", "done", nodes=9, exact=3, error=1e-7, moved=0.5, free=0.95, params=(10, 5, 5), seconds={"x": 1.0})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "equal"),
        ({"error": 1e-3}, "different"),
        ({"refused": "no"}, "refused"),
        ({"stage": "onnx", "failed": "x"}, "equal, then failed: onnx"),
        ({"stage": "slice", "failed": "x", "error": float("nan")}, "failed: slice"),
    ],
)
def test_one_word_for_a_model(change: dict[str, object], word: str) -> None:
    finding = dataclasses.replace(FOUND, **change)  # type: ignore[arg-type] # fields of a Finding
    assert coverage.result(finding) == word
    assert coverage.holds([finding]) == (word in ("equal", "refused"))


def test_tables_and_totals(tmp_path: Path) -> None:
    other = dataclasses.replace(FOUND, name="b", moved=0.0, free=0.2, unknown=["aten.x"])
    coverage.write("timm", [FOUND, other], tmp_path)
    assert (tmp_path / "timm.csv").read_text().splitlines()[1].startswith("a,equal,3,0,1.0e-07,50.0%,95.0%")
    text = (tmp_path / "timm.md").read_text()
    assert "2 models, 2 captured, 2 equal, 2 through every stage, 0 refused" in text
    assert "1 of 2 captured (50.0%)" in text
    assert "aten.x (1)" in text
    assert not coverage.holds([FOUND, other])


def test_a_model_that_takes_too_long_is_ended() -> None:
    pytest.importorskip("timm", reason="pip install timm")
    finding = coverage.run_apart("timm", "vgg11", limit=0.5, onnx=False)
    assert "not done after" in finding.failed
    assert coverage.result(finding) == "failed: build"


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(_: str, name: str, *__: object) -> Finding:
        ran.append(name)
        return dataclasses.replace(FOUND, name=name)

    names = ("a", "b")
    monkeypatch.setattr(coverage, "suite", lambda _: [Case(name, nn.Identity, {}, {}, {}) for name in names])
    monkeypatch.setattr(coverage, "run_apart", run)
    monkeypatch.setattr("sys.argv", ["coverage", "timm", "--out", str(tmp_path)])
    (tmp_path / "timm.jsonl").write_text(json.dumps(dataclasses.asdict(FOUND)) + "\n")
    assert coverage.main() == 0
    assert ran == ["b"]
