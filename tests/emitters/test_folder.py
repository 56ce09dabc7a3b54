"""Generated folders: readable, trainable, and of use without graphc."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graphc
from graphc.emitters import emit, load
from graphc.emitters.codegen import generate
from graphc.errors import EmitError
from tests import models
from tests.emitters.programs import program


@pytest.mark.parametrize("name", ["residual", "bert/2"])
def test_generated_text(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"generated_{name.replace('/2', '_half')}", generate(program(name)))


@pytest.mark.parametrize("name", ["residual", "residual/2", "nested", "bert/2", "gpt2", "gpt2/2"])
def test_there_and_back(name: str, tmp_path: Path) -> None:
    before = program(name)
    artifact = emit(before, tmp_path / "net")
    after = load(tmp_path / "net")
    assert artifact.error < 1e-6
    assert after.contract.inputs == before.contract.inputs
    assert after.contract.outputs == before.contract.outputs
    assert after.contract.dynamic == before.contract.dynamic
    assert (after.history, after.aliases) == (before.history, before.aliases)
    assert set(after.tensors()) == set(before.tensors())
    assert [a.name for a in graphc.find_axes(after)] == [a.name for a in graphc.find_axes(before)]
    assert artifact.bytes == sum(f.stat().st_size for f in (tmp_path / "net").iterdir())


def test_torch_and_safetensors_alone_run_and_train_it(tmp_path: Path) -> None:
    bert = program("bert/2")
    emit(bert, tmp_path / "net")
    save_file({**bert.example()[1], "logits": bert(**bert.example()[1]).logits}, tmp_path / "expected")
    code = """
import sys
sys.modules["graphc"] = sys.modules["transformers"] = None
sys.path.insert(0, "net")
import torch
from safetensors.torch import load_file
from model import load
expected = load_file("expected")
logits = expected.pop("logits")
model = load()
assert not model.training
torch.testing.assert_close(model(**expected)["logits"], logits)
model.train()
assert not torch.equal(model(**expected)["logits"], logits)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(**expected)["logits"].square().sum().backward()
optimizer.step()
assert not torch.equal(load("net").eval()(**expected)["logits"], model.eval()(**expected)["logits"])
assert set(model.state_dict()) == set(load_file("net/model.safetensors"))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)


def test_weights_are_stored_once_under_their_names(tmp_path: Path) -> None:
    emit(program("gpt2"), tmp_path / "net")
    stored = load_file(tmp_path / "net" / "model.safetensors")
    assert set(stored) == set(program("gpt2").tensors())
    assert "lm_head.weight" not in stored
    assert "# also lm_head.weight" in (tmp_path / "net" / "model.py").read_text()
    assert {f.name for f in (tmp_path / "net").iterdir()} == {
        *("model.py", "model.safetensors", "program.json", "example_inputs.safetensors")
    }


class Odd(nn.Module):
    """Names that are no identifiers, tensors of other dtypes, views of one tensor, infinities, flags."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.Linear(6, 6))
        self.add_module("1", nn.Linear(6, 6, dtype=torch.float64))
        both = torch.randn(4, 6)
        self.register_buffer("first", both[:2])
        self.register_buffer("second", both[2:])
        self.frozen = nn.Parameter(torch.randn(6), requires_grad=False)

    def forward(self, x: Tensor, flag: bool, lambda_: Tensor) -> tuple[Tensor]:
        y = self.get_submodule("0")(x) + self.frozen - self.first.sum(0) * self.second.sum(0)
        y = y.masked_fill(y > 0.5, -float("inf")).clamp(min=-1.5).double()
        y = self.get_submodule("1")(y)[:, 1::2].float()
        return (y / lambda_ if flag else y,)


def test_odd_names_and_dtypes(tmp_path: Path) -> None:
    odd = graphc.capture(models.seeded(Odd), (models.vectors(), True, torch.rand(4, 1) + 1))
    for name in ("net.onnx", "net.pt2", "net"):
        emit(odd, tmp_path / name)
    after = load(tmp_path / "net")
    assert not next(p for n, p in after.module.named_parameters() if n == "frozen").requires_grad
    assert {n: t.dtype for n, t in after.tensors().items()} == {n: t.dtype for n, t in odd.tensors().items()}


def test_written_again_over_an_old_one(tmp_path: Path) -> None:
    emit(program("residual"), tmp_path / "net")
    emit(program("residual/2"), tmp_path / "net/")
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    assert load(tmp_path / "net").history == ("half",)


def test_a_folder_that_was_changed(tmp_path: Path) -> None:
    emit(program("residual"), tmp_path / "net")
    record = json.loads((tmp_path / "net" / "program.json").read_text())
    for change, why in (
        ({"format": 9}, "has format 9"),
        ({"outputs": [{**record["outputs"][0], "name": "z"}]}, "recorded"),
    ):
        (tmp_path / "net" / "program.json").write_text(json.dumps(record | change))
        with pytest.raises(EmitError, match=why):
            load(tmp_path / "net")
    (tmp_path / "net" / "model.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(EmitError, match="line 1 is none that graphc writes"):
        load(tmp_path / "net")


def test_history_cannot_leave_its_docstring(tmp_path: Path) -> None:
    hostile = dataclasses.replace(program("residual"), history=('x("""\nraise SystemExit(3)\n""")', "y\\"))
    emit(hostile, tmp_path / "model")
    assert load(tmp_path / "model").history == hostile.history
