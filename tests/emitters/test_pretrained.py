"""Folders that from_pretrained loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

import graphc  # noqa: E402 - after the check that transformers is there
from benchmarks import writeback  # noqa: E402
from graphc.errors import EmitError  # noqa: E402

WAYS = {f"{way.case.name} {way.what}": way for way in writeback.ways() if way.case.name != "resnet50"}


@pytest.mark.parametrize("name", list(WAYS))
def test_what_is_written_back_is_equal(name: str) -> None:
    result = writeback.write_back(WAYS[name])
    assert result.good, result
    if result.way.case.name != "mobilenet_v2":
        assert (result.folder is None) == bool(result.refused)


def test_a_refusal_names_the_tensors_and_leaves_nothing(tmp_path: Path) -> None:
    case = WAYS["bert (sdpa) heads"].case
    model = case.build()
    program = graphc.capture(model, (), case.inputs, dynamic=case.dynamic)
    heads = [a for a in graphc.find_axes(program) if "heads" in a.roles and a.pinned is None]
    smaller = graphc.slice(program, {heads[0]: [0, 2]})
    with pytest.raises(EmitError, match="configuration of BertModel") as caught:
        graphc.save_pretrained(smaller, model, tmp_path / "model")
    assert "encoder.layer.0.attention.self.query.weight is (32, 64), it makes (64, 64)" in caught.value.why
    assert list(tmp_path.iterdir()) == []


def test_a_head_width_that_positions_depend_on_is_refused(tmp_path: Path) -> None:
    case = WAYS["llama (sdpa) heads"].case
    model = case.build()
    program = graphc.capture(model, (), case.inputs, dynamic=case.dynamic)
    widths = [a for a in graphc.find_axes(program) if "head_dim" in a.roles and a.pinned is None]
    smaller = graphc.slice(program, {axis: range(0, axis.size, 2) for axis in widths})
    with pytest.raises(EmitError, match="cannot express") as caught:
        graphc.save_pretrained(smaller, model, tmp_path / "model")
    assert "from_pretrained loads is not equal" in caught.value.why
    assert list(tmp_path.iterdir()) == []


def test_only_hugging_face_models(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    program = graphc.capture(model, (torch.randn(5, 3),))
    with pytest.raises(EmitError, match="pretrained folder"):
        graphc.save_pretrained(program, model, tmp_path / "model")
