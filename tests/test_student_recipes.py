"""The recipes of students run as they are, and what they teach is learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

import graphc

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "taught", "inputs"),
    [
        ("distilbert", 0.5, ["input_ids", "attention_mask"]),
        ("distil_whisper", 0.95, ["input_features", "decoder_input_ids"]),
    ],
)
def test_recipes_of_students(
    name: str, taught: float, inputs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="pip install 'graphc[train]'")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipe = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    assert recipe["emit"] == [f"{name}.onnx", f"{name}.pt2"]
    done = graphc.compile(recipe | {"emit": [f"{name}.pt2"], "bench": None}, output_dir=tmp_path)
    report = done.report
    assert report["before"]["metric"] > taught
    assert report["after"]["metric"] > 0.9 * report["before"]["metric"]
    assert report["after"]["params"] < 0.8 * report["before"]["params"]
    assert [s.name for s in done.program.contract.inputs] == inputs
    assert len(report["fidelity"]) == len(done.program.contract.outputs) == 1
    assert [a.path.name for a in done.artifacts] == [f"{name}.pt2"]
