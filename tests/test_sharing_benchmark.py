"""A small slice of the benchmark of sharing, and its exact figures without values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

from graphc.passes import TieWeights

from benchmarks import sharing
from graphc.pipeline.base import Context

SMALL = sharing.Shape(layers=3, width=24, heads=4, hidden=40, words=97, positions=31, rank=8)


def test_a_small_encoder_and_its_files_shrink_alike(tmp_path: Path) -> None:
    program = sharing.captured(SMALL)
    both = sharing.passes(SMALL)["both"]
    found = {"whole": sharing.measure(program, [], tmp_path), "both": sharing.measure(program, both, tmp_path)}
    layer = 4 * (24 * 24 + 24) + 2 * 24 * 40 + 40 + 24 + 4 * 24
    said = sharing.claims(found, {"whole": (3 * layer, 97 * 24), "both": (layer, 97 * 8 + 24 * 8)})
    assert all(said.values()), said
    assert len(said) == 2 + 2 * 5
    wrong = replace(found["both"], size={**found["both"].size, ".onnx": found["whole"].size[".onnx"]}, error=1e-3)
    assert list(sharing.claims({**found, "both": wrong}, {}).values()).count(False) == 2
    assert len(sharing.row("both", wrong)) == len(sharing.COLUMNS)


def test_layers_of_bert_base_share_7_of_85_million_parameters() -> None:
    program = sharing.captured(sharing.BASE, device="meta")
    item = TieWeights()
    item.requires(program)
    tied = item.run(program, Context(original=program))
    item.ensures(program, tied)
    assert sharing.parameters(program, "encoder.") == sharing.EXACT["whole"][0] == 85_054_464
    assert sharing.parameters(tied, "encoder.") == sharing.EXACT["layers share"][0] == 7_087_872
