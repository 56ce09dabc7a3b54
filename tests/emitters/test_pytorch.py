"""The .pt2 files of torch.export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import graphc
from graphc.emitters import emit, load
from tests.emitters.programs import program


@pytest.mark.parametrize("name", ["residual", "residual/2", "nested", "bert/2", "gpt2", "gpt2/2"])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    before = program(name)
    artifact = emit(before, tmp_path / "x.pt2")
    after = load(tmp_path / "x.pt2")
    assert artifact.error < 1e-6
    assert after.contract.inputs == before.contract.inputs
    assert after.contract.outputs == before.contract.outputs
    assert after.contract.dynamic == before.contract.dynamic
    assert (after.history, after.aliases) == (before.history, before.aliases)
    assert str(after).count("\n") == str(before).count("\n")
    assert [a.name for a in graphc.find_axes(after)] == [a.name for a in graphc.find_axes(before)]
    graphc.slice(after, {})


def test_tied_tensors_stay_one(tmp_path: Path) -> None:
    emit(program("gpt2"), tmp_path / "x.pt2")
    exported = torch.export.load(tmp_path / "x.pt2")
    assert [n for n in exported.state_dict if n.endswith(("wte.weight", "lm_head.weight"))] == [
        "transformer.wte.weight"
    ]


def test_torch_alone_runs_it(tmp_path: Path) -> None:
    bert = program("bert/2")
    emit(bert, tmp_path / "x.pt2")
    inputs = bert.example()[1]
    save_file({**inputs, "logits": bert(**inputs).logits.detach()}, tmp_path / "expected.safetensors")
    code = """
import sys
sys.modules["graphc"] = sys.modules["transformers"] = None
import torch
from safetensors.torch import load_file
inputs = load_file("expected.safetensors")
logits = inputs.pop("logits")
found = torch.export.load("x.pt2").module()(**inputs)
assert type(found) is dict, type(found)
torch.testing.assert_close(found["logits"], logits)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_file_that_graphc_did_not_write(tmp_path: Path) -> None:
    exported = torch.export.export(torch.nn.Linear(3, 2), (torch.randn(4, 3),))
    torch.export.save(exported, tmp_path / "x.pt2")
    assert load(tmp_path / "x.pt2").history == ()
