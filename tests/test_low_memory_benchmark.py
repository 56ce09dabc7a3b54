"""A small slice of the benchmark of low memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("transformers", reason="pip install 'graphc[transformers]'")

from benchmarks import low_memory

SHAPE = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def test_both_paths_give_the_same(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    size = low_memory.write_checkpoint(checkpoint, SHAPE, layers=1, shard=4000)
    assert size == sum(2 * n for n in (2 * 60 * 16, 4 * 16 * 16, 3 * 16 * 24, 3 * 16))
    assert len(list(checkpoint.glob("*.safetensors"))) > 1
    done = {}
    for lean in (True, False):
        file = tmp_path / f"{lean}.yaml"
        file.write_text(yaml.safe_dump(low_memory.recipe(checkpoint, 60, lean, "3KB")))
        done[lean] = low_memory.compiled(file, tmp_path / str(lean))
    assert done[True].files == done[False].files > 1
    assert 0 < done[True].before - size < 100  # the positions' frequencies are in no checkpoint
    assert low_memory.differences(tmp_path / "True", tmp_path / "False") == []
    assert low_memory.halved(checkpoint, tmp_path / "True" / "model")
    assert not low_memory.halved(checkpoint, checkpoint)
    first = sorted((tmp_path / "True" / "model").glob("model*.safetensors"))[0]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    assert len(low_memory.differences(tmp_path / "True", tmp_path / "False")) == 1


def test_claims_are_held_against_their_limits() -> None:
    done = low_memory.Done(1_400_000_000, 1.0, 4_100_000_000, 3_000_000_000, 3)
    assert all(low_memory.claims(done.before, done, [], True).values())
    cases = [
        low_memory.claims(3_900_000_000, done, [], True),
        low_memory.claims(done.before, replace(done, peak=1_500_000_000), [], True),
        low_memory.claims(done.before, done, [], False),
        low_memory.claims(done.before, done, ["a"], True),
        low_memory.claims(done.before, done, None, True),
    ]
    assert [list(case.values()).count(False) for case in cases] == [1] * 5
    assert low_memory.row("x", done) == ["x", "1.40 GB", "1 s", "4.10 GB", "3.00 GB", "3"]
