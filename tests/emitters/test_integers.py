"""Quantised programs in files that torch alone runs, and back."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from graphc.passes import PruneFilters
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils import _pytree as pytree

import graphc
from graphc.emitters import emit, load, to_module
from graphc.emitters.naming import names_of
from graphc.errors import EmitError, GraphError
from graphc.ir.edit import rebuild, set_training
from graphc.ir.quantized import FAKE, MEANING, QUANTIZE
from graphc.pipeline.base import Context
from tests import models
from tests.emitters import programs

OPTIONS: dict[str, dict[str, Any]] = {"W8A8": {}, "W8A8-dynamic": {}, "W8A16": {}, "W4A16": {"group_size": 16}}


@cache
def program(net: str, scheme: str = "W8A8") -> graphc.Program:
    return models.quantised(programs.program(net), scheme, **OPTIONS[scheme])


def results(found: Any, given: graphc.Program) -> list[torch.Tensor]:
    args, kwargs = given.example()
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(found(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize(
    ("net", "scheme", "target"),
    [
        ("residual", "W8A8", "x.pt2"),
        ("residual", "W8A8", "x/"),
        ("residual", "W8A8-dynamic", "x.pt2"),
        ("bert", "W8A8-dynamic", "x/"),
        ("gpt2", "W8A16", "x/"),
        ("gpt2", "W4A16", "x.pt2"),
        ("gpt2", "W4A16", "x/"),
    ],
)
def test_what_is_read_is_what_was_written(net: str, scheme: str, target: str, tmp_path: Path) -> None:
    before = program(net, scheme)
    artifact = emit(before, f"{tmp_path}/{target}")
    assert artifact.error == 0
    after = load(artifact.path)
    assert names_of(after) == names_of(before)
    assert MEANING.keys() & {node.target for node in after.graph.nodes}
    assert after.aliases == before.aliases
    for a, b in zip(results(after, before), results(before, before), strict=True):
        assert torch.equal(a, b)
    tensors = after.tensors()
    for name, value in before.tensors().items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)
        assert isinstance(tensors[name], torch.nn.Parameter) == isinstance(value, torch.nn.Parameter)


@pytest.mark.parametrize(("net", "scheme"), [("residual", "W8A8"), ("gpt2", "W4A16")])
def test_torch_alone_runs_both(net: str, scheme: str, tmp_path: Path) -> None:
    before = program(net, scheme)
    emit(before, tmp_path / "x.pt2")
    emit(before, tmp_path / "net")
    args, kwargs = before.example()
    save_file({**{str(i): v for i, v in enumerate(args)}, **kwargs}, tmp_path / "inputs")
    save_file({"0": results(before, before)[0]}, tmp_path / "expected")
    code = """
import sys
sys.modules["graphc"] = sys.modules["transformers"] = None
sys.path.insert(0, "net")
import torch
from safetensors.torch import load_file
from model import load
inputs, expected = load_file("inputs"), load_file("expected")["0"]
args = [inputs.pop(name) for name in list(inputs) if name.isdigit()]
for run in (load(), torch.export.load("x.pt2").module()):
    found = run(*args, **inputs)
    found = found if isinstance(found, torch.Tensor) else next(iter(found.values()))
    assert torch.equal(found, expected)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_integers_are_stored_once_as_such(tmp_path: Path) -> None:
    emit(program("gpt2"), tmp_path / "net")
    stored = load_file(tmp_path / "net" / "model.safetensors")
    assert set(stored) == set(program("gpt2").tensors())
    assert stored["transformer.wte.weight"].dtype == torch.int8
    assert "lm_head.weight" not in stored
    four = program("gpt2", "W4A16")
    emit(four, tmp_path / "four")
    packed = load_file(tmp_path / "four" / "model.safetensors")["transformer.h.0.attn.c_attn.weight"]
    assert (packed.dtype, tuple(packed.shape)) == (torch.uint8, (96, 2, 8))


@pytest.mark.parametrize(("target", "most"), [("x.pt2", 0.28), ("x/", 0.26), ("x.onnx", 0.26)])
def test_files_are_as_small_as_their_integers(target: str, most: float, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 512, 5), nn.Flatten(1), nn.Linear(512, 1000))
    before = graphc.capture(model, (torch.randn(3, 3, 7, 7),))
    whole = sum(t.numel() * t.element_size() for t in before.tensors().values())
    assert emit(models.quantised(before), f"{tmp_path}/{target}").bytes < most * whole


def test_a_line_of_the_generated_model_is_a_line_of_its_module(tmp_path: Path) -> None:
    emit(program("residual"), tmp_path / "net")
    text = (tmp_path / "net" / "model.py").read_text()
    section = text[text.index("        # conv1\n") :].split("\n        # ")[0]
    assert "m.weight.to(torch.float32)" in section
    assert "F.conv2d" in section
    assert section.count("\n") < 12


def test_a_program_that_was_read_is_written_as_onnx_again(tmp_path: Path) -> None:
    emit(program("residual"), tmp_path / "x.pt2")
    for given, name in ((program("residual"), "before.onnx"), (load(tmp_path / "x.pt2"), "after.onnx")):
        emit(given, tmp_path / name)
    before, after = (onnx.load(tmp_path / name).graph for name in ("before.onnx", "after.onnx"))
    assert [node.op_type for node in after.node] == [node.op_type for node in before.node]
    assert "QuantizeLinear" in {node.op_type for node in after.node}


@pytest.mark.parametrize("target", ["x.pt2", "x/"])
def test_a_program_that_was_read_is_not_cut(target: str, tmp_path: Path) -> None:
    emit(program("residual"), f"{tmp_path}/{target}")
    read = load(f"{tmp_path}/{target}")
    with pytest.raises(GraphError, match=r"is quantised to torch[.]int8; cut before"):
        PruneFilters(pruning_ratio=0.5).run(read, Context(original=read))


def test_any_file_of_torch_export_is_recognised(tmp_path: Path) -> None:
    emit(program("residual"), tmp_path / "x.pt2")
    found = graphc.capture(torch.export.load(tmp_path / "x.pt2"))
    kept = [node.target for node in program("residual").graph.nodes if node.target in MEANING]
    assert [node.target for node in found.graph.nodes if node.target in MEANING] == kept


def test_a_class_of_real_numbers_refuses_it() -> None:
    model, before = programs.language(models.tiny_bert)
    with pytest.raises(EmitError, match="the program is quantised") as error:
        to_module(models.quantised(before), model)
    assert "emit a folder" in str(error.value)


def test_rounding_that_is_trained_survives(tmp_path: Path) -> None:
    before = program("residual")

    def learn(graph: torch.fx.Graph) -> None:
        for node in [n for n in graph.nodes if n.target is QUANTIZE]:
            node.target = FAKE
            for user in list(node.users):
                user.replace_all_uses_with(node)
                graph.erase_node(user)

    simulated = rebuild(before, learn)
    emit(simulated, tmp_path / "x.pt2")
    after = load(tmp_path / "x.pt2")
    assert names_of(after) == names_of(simulated)
    assert set_training(after, True).module.training
